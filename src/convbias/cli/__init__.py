"""The command ``convbias``."""

from __future__ import annotations

import os
import sys
import time

from ..errors import MissingExtra

# torchrun ends the ranks that are left well before.
SECONDS_FOR_THE_FIRST_RANK = 3.0
# What a shell says of a command that Ctrl-C has ended.
STOPPED = 130


def main() -> None:
    """Run the command; errors of the user's become one line on stderr and the exit status 2."""
    try:
        from .app import app

        app()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(STOPPED)
    except (ValueError, OSError, MissingExtra) as error:
        if os.environ.get("RANK", "0") != "0":
            # What is wrong for all of torchrun's ranks is said once; this one speaks if it is alone with it.
            time.sleep(SECONDS_FOR_THE_FIRST_RANK)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
