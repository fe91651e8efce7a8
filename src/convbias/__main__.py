"""``python -m convbias`` is the command ``convbias``."""

from .cli import main

main()
