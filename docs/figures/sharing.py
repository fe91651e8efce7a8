"""The figure of docs/tyings.md, which outputs share a bias: python docs/figures/sharing.py"""

import io
from pathlib import Path

from PIL import Image

from convbias import Geometry, Site
from convbias.plots import sharing

SITE = Site.of(2, Geometry.of(2, 3, padding=1), (6, 6))
BETWEEN = 60  # pixels


def picture(spelling: str) -> Image.Image:
    """A diagram as an image."""
    file = io.BytesIO()
    sharing(spelling, SITE).savefig(file, format="png")
    return Image.open(file)


if __name__ == "__main__":
    tap, axes = picture("tap"), picture("c h + c w")
    both = Image.new("RGB", (tap.width + BETWEEN + axes.width, max(tap.height, axes.height)), "white")
    both.paste(tap, (0, (both.height - tap.height) // 2))
    both.paste(axes, (tap.width + BETWEEN, 0))
    both.save(Path(__file__).with_suffix(".png"), optimize=True)
