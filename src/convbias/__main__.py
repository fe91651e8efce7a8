"""``python -m convbias`` is the command ``convbias``."""

from .cli import main

# Processes of a study that are spawned import this file again.
if __name__ == "__main__":
    main()
