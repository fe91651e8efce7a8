"""The command ``convbias``."""

from __future__ import annotations

import sys

from ..errors import MissingExtra


def main() -> None:
    """Run the command; errors of the user's become one line on stderr and the exit status 2."""
    try:
        from .app import app

        app()
    except (ValueError, OSError, MissingExtra) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
