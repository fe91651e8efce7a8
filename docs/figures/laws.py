"""The figure of docs/folding.md, a bias field for each law: python docs/figures/laws.py"""

from pathlib import Path

import torch
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from convbias.affine import (
    AffineConv,
    Field,
    after,
    before,
    compose,
    constant_channels,
    constant_padding,
    parallel,
    tied,
)
from convbias.geometry import Geometry

SIZE = (11, 11)


def convolution(inputs: int = 1, kernel: int = 3, padding: int = 1) -> AffineConv:
    """One filter with a tied bias."""
    weight = torch.rand(1, inputs, kernel, kernel) - 0.2
    return AffineConv(weight, Geometry.of(2, kernel, padding=padding), 1, tied(torch.tensor([0.3]), 2))


def number(value: float) -> Field:
    """The same at every place."""
    return tied(torch.tensor([value]), 2)


def laws() -> dict[str, AffineConv]:
    """One example of each law."""
    rows = torch.linspace(-1, 1, SIZE[0])[:, None].expand(SIZE)
    hill = torch.exp(-3 * (rows**2 + rows.T**2))
    point = AffineConv(torch.ones(1, 1, 1, 1), Geometry.of(2, 1), 1, number(1.0))
    return {
        "affine after\n a·conv(x) + t": after(convolution(), torch.tensor([-1.5]), number(0.2)),
        "affine before, padded\n conv(s·x + t)": before(convolution(), torch.tensor([2.0]), number(1.0)),
        "affine before, not padded\n conv(s·x + t)": before(convolution(3, 3, 0), torch.ones(3), number(1.0)),
        "map after\n conv(x) + M": after(convolution(), None, Field(maps=(hill[None],))),
        "map before\n conv(x + M)": before(convolution(), None, Field(maps=(hill[None],)), SIZE),
        "constant channels\n conv([x, rows])": constant_channels(convolution(2), {1: rows.contiguous()}),
        "constant padding\n conv(pad(x, v))": constant_padding(
            convolution(1, 3, 0), ((1, 1), (1, 1)), torch.tensor([1.0])
        ),
        "composition\n conv3(conv1(x))": compose(point, convolution()),
        "parallel branches\n conv3(x) + conv1(x)": parallel(convolution(), point),
    }


def main() -> None:
    """Draw and save."""
    torch.manual_seed(0)
    figure = Figure(figsize=(11, 5.8), dpi=150, layout="constrained")
    axes = figure.subplots(2, 5).flat
    for panel, (name, conv) in zip(axes, laws().items(), strict=False):
        field = conv.bias.at(conv.site(SIZE))[0]
        panel.imshow(field, cmap="RdBu_r", norm=CenteredNorm(0, max(field.abs().max().item(), 1e-6)))
        tying = conv.smallest(SIZE)[0]
        panel.set_title(f"{name}\nB is {tying!r}", fontsize=9)
    for panel in axes:
        panel.set_visible(False)
    for panel in figure.axes:
        panel.set_axis_off()
    figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
