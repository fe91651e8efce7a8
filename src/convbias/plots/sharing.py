"""Which outputs share a bias, as a diagram."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import extra
from ..geometry import Site
from ..tying import Sum, Tying, parse
from .files import Picture

with extra("plots"):
    from matplotlib import colormaps
    from matplotlib.figure import Figure

FILTERS = 4
MOST_NUMBERS = 400  # cells whose number can still be read
CELL = 0.24  # inches
LETTER = 0.085  # inches of the title, at most
DARK = 0.45  # the part of the scale on which white is read


def sharing(bias: str | Tying, site: Site) -> Figure:
    """Outputs that share a bias have the same number and colour: a panel for each filter and term of a sum.

    Numbers count the different entries of the bias field, filter after filter and term after term; outputs
    without a bias have none. Lines are drawn as strips, volumes with their slices below each other. Under
    tap those are the outputs that the same taps reach; under low rank and grid, whose entries are all sums
    of shared parameters, every output has its own. The title says how many parameters there are.

    Raises ShapeError for a site of unknown size, TyingError for a tying that it
    cannot have.

    >>> from convbias import Geometry
    >>> figure = sharing("c h", Site.of(2, Geometry.of(2, 3, padding=1), (4, 5)))
    >>> [text.get_text() for text in figure.axes[1].texts[::5]]  # the second filter's rows
    ['4', '5', '6', '7']
    """
    tying = parse(bias) if isinstance(bias, str) else bias
    terms = tying.terms if isinstance(tying, Sum) else (tying,)
    *above, width = site.sized()
    height = math.prod(above)
    filters = min(site.channels, FILTERS)
    numbers = sum(math.prod(shape) for shape in tying.shapes(site).values())
    cell = min(CELL, 3.2 / width)
    outputs = math.prod(site.field_shape)
    title = f'"{tying!r}": {_count(numbers, "parameter")} for {_count(outputs, "output")}'
    figure = Picture(
        figsize=(
            max(0.9 + filters * (width * cell + 0.25), 0.2 + LETTER * len(title)),
            0.9 + len(terms) * (height * cell + 0.3),
        ),
        dpi=150,
        layout="constrained",
    )
    panels: Any = figure.subplots(len(terms), filters, squeeze=False)
    first = 0
    for term, row in zip(terms, panels, strict=True):
        classes = _classes(term, site, first).reshape(site.channels, height, width)
        count = int(classes.max()) + 1
        for number, axes in enumerate(row):
            _draw(axes, classes[number], count)
            axes.set_title(f"filter {number}", fontsize="small")
        if len(terms) > 1:
            row[0].set_ylabel(
                repr(term) if repr(term) != "tied" else "c", rotation=0, ha="right", va="center"
            )
        first = max(first, count)
    figure.suptitle(title, fontsize="medium")
    return figure


def _count(number: int, things: str) -> str:
    return f"{number} {things}{'' if number == 1 else 's'}"


def _classes(tying: Tying, site: Site, first: int) -> Tensor:
    """The number of each output's class (C, *out): outputs whose biases are alike whatever the parameters.

    They count from ``first``; outputs that have no bias are −1.
    """
    if not tying.shapes(site):
        return torch.full(site.field_shape, -1)
    generator = torch.Generator().manual_seed(0)
    parameters = [
        torch.rand(shape, generator=generator, dtype=torch.float64) for shape in tying.shapes(site).values()
    ]
    field = tying.expand(parameters, site).double().expand(site.field_shape)
    known: dict[float, int] = {}
    found = [known.setdefault(round(value, 12), first + len(known)) for value in field.flatten().tolist()]
    return torch.tensor(found).reshape(site.field_shape)


def _draw(axes: Any, classes: Tensor, count: int) -> None:
    # Neighbouring numbers get colours far apart: steps of the golden ratio through a scale that all can see.
    share = (classes.double() * 0.618034) % 1 if count > 1 else torch.full_like(classes, 0.5).double()
    colours = colormaps["cividis"]((0.15 + 0.85 * share).numpy())
    colours[(classes < 0).numpy()] = 1
    axes.imshow(colours, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    if classes.numel() > MOST_NUMBERS or (classes < 0).all():
        return
    for y, numbers in enumerate(classes.tolist()):
        for x, number in enumerate(numbers):
            colour = "white" if share[y, x] < DARK else "black"
            axes.text(x, y, str(number), ha="center", va="center", fontsize=6, color=colour)
