"""Where the bias goes, number by number: a page for a browser."""

from .page import page, write

__all__ = ["page", "write"]
