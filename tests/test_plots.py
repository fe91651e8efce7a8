"""Figures show what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor

import convbias
from convbias import Geometry, Regions, ShapeError, Site
from convbias.plots import (
    bias_fields,
    decomposition,
    differences,
    learning_curves,
    model_fields,
    part_maps,
    save,
    sharing,
)


def images(figure: Any) -> list[Any]:
    return [axis for axis in figure.axes if axis.images]


def test_rows_are_tyings_and_columns_the_filters_that_vary_most() -> None:
    field = torch.zeros(5, 4, 6)
    for channel, height in ((4, 3.0), (1, 2.0), (2, 1.0), (3, 0.5)):
        field[channel, 1, 2] = height
    figure = bias_fields({"tied": {"a.conv": torch.ones(5, 4, 6)}, "untied": {"a.conv": field}})
    drawn = images(figure)
    assert [axis.get_title() for axis in drawn[:3]] == [f"layer a.conv\nfilter {c}" for c in (1, 2, 4)]
    assert [drawn[0].get_ylabel(), drawn[3].get_ylabel()] == ["tied", "untied"]
    for axis, channel in zip(drawn[3:], (1, 2, 4), strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), field[channel].numpy())


def test_colours_mean_the_same_in_a_layer_and_white_is_zero() -> None:
    layers = {"0": torch.randn(2, 5, 5), "3": 10 * torch.randn(2, 5, 5)}
    figure = bias_fields(
        {"tied": {k: f.mean((1, 2), True).expand_as(f) for k, f in layers.items()}, "untied": layers}
    )
    limits = {axis.get_title() or axis: axis.images[0].get_clim() for axis in images(figure)}
    assert len(set(limits.values())) == 2
    for low, high in limits.values():
        assert low == -high
    assert images(figure)[0].images[0].get_cmap()(0.5)[:3] == pytest.approx((0.97, 0.97, 0.97), abs=0.01)
    assert max(high for _, high in limits.values()) > 5


@pytest.mark.parametrize(
    ("field", "shape"),
    [(torch.randn(2, 7), (1, 7)), (torch.randn(2, 3, 4), (3, 4)), (torch.randn(2, 3, 4, 5), (12, 5))],
)
def test_fields_of_every_dimension(field: Tensor, shape: tuple[int, int]) -> None:
    drawn = images(bias_fields({"untied": {"": field}}))
    assert drawn[0].images[0].get_array().shape == shape
    assert drawn[0].get_title() == "the layer\nfilter 0"


def test_a_layer_that_only_some_have_leaves_a_gap() -> None:
    figure = bias_fields({"tied": {"0": torch.ones(1, 3, 3)}, "untied": {"1": torch.ones(1, 3, 3)}})
    assert len(images(figure)) == 2


@pytest.mark.parametrize("fields", [{}, {"tied": {}}])
def test_nothing_to_draw(fields: Any) -> None:
    with pytest.raises(ShapeError, match="has no bias field"):
        bias_fields(fields)


def test_a_field_of_no_known_shape() -> None:
    with pytest.raises(ShapeError, match=r"field=\[3\]: must be \(C, \*out\)"):
        bias_fields({"tied": {"0": torch.ones(3)}})


def test_fields_of_zero_and_in_half_precision_are_drawn(tmp_path: Path) -> None:
    fields = {"none": {"0": torch.zeros(2, 4, 4)}, "tied": {"0": torch.zeros(2, 4, 4, dtype=torch.bfloat16)}}
    save(bias_fields(fields), tmp_path / "fields.png")
    assert (tmp_path / "fields.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["fields.png"]


def test_a_learning_curve_is_the_mean_over_seeds_in_its_range() -> None:
    figure = learning_curves({"tied": [(3.0, 1.0), (5.0, 2.0)], "": [(4.0, 3.0)]}, "RMSE in K")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["tied", '""']
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_xydata()), [[1, 4], [2, 1.5]])
    heights = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == (1.0, 5.0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "RMSE in K, validation")
    with pytest.raises(ShapeError, match="has no curve; a validation split is needed"):
        learning_curves({"tied": [()]}, "RMSE")


def test_a_map_is_on_its_coordinates() -> None:
    field = torch.arange(24.0).reshape(1, 4, 6)
    south_first = [("lat", [50.0, 51, 52, 53]), ("lon", [-10.0, -8, -6, -4, -2, 0])]
    figure = bias_fields({"tied": {"0": field * 0}, "untied": {"0": field}}, south_first)
    *_, shown = images(figure)
    np.testing.assert_array_equal(shown.images[0].get_array(), field[0].flip(0).numpy())
    assert [label.get_text() for label in shown.get_xticklabels()] == ["-10", "0"]
    heights = dict(zip(shown.get_yticks(), (t.get_text() for t in shown.get_yticklabels()), strict=True))
    assert heights == {3: "50", 0: "53"}
    assert (shown.get_xlabel(), shown.get_ylabel()) == ("lon", "lat")
    north_first = [("lat", [53.0, 52, 51, 50]), south_first[1]]
    *_, shown = images(bias_fields({"untied": {"0": field}}, north_first))
    np.testing.assert_array_equal(shown.images[0].get_array(), field[0].numpy())
    for longitudes, shown_as in (
        ([350.0, 355, 0, 5, 10, 15], field[0]),
        ([15.0, 10, 5, 0, 355, 350], field[0].flip(1)),
    ):
        *_, shown = images(bias_fields({"untied": {"0": field}}, [north_first[0], ("lon", longitudes)]))
        np.testing.assert_array_equal(shown.images[0].get_array(), shown_as.numpy())
        assert [label.get_text() for label in shown.get_xticklabels()] == ["350", "15"]
    *_, shown = images(bias_fields({"untied": {"0": torch.randn(1, 3, 3)}}, south_first))
    assert list(shown.get_xticks()) == []


def test_slices_of_a_volume_are_parted_and_numbered() -> None:
    fields = {"tied": {"0": torch.randn(2, 3, 4, 6)}, "untied": {"0": torch.randn(2, 3, 4, 6)}}
    shown = images(bias_fields(fields))
    assert len(shown) == 4
    for number, axes in enumerate(shown):
        assert [line.get_ydata()[0] for line in axes.lines] == [3.5, 7.5]
        numbers = dict(zip(axes.get_yticks(), (t.get_text() for t in axes.get_yticklabels()), strict=True))
        assert numbers == ({1.5: "0", 5.5: "1", 9.5: "2"} if number % 2 else {})
    assert not images(bias_fields({"tied": {"0": torch.randn(1, 3, 4)}}))[0].lines


def test_of_many_layers_the_most_varied_are_drawn() -> None:
    layers = {str(i): i * torch.randn(1, 4, 4) for i in range(7)}
    titles = [axis.get_title() for axis in images(bias_fields({"untied": layers}))]
    assert [title.split()[1] for title in titles] == ["3", "4", "5", "6"]
    assert bias_fields({"untied": layers}).get_supxlabel() == "4 of 7 layers, those that vary most"
    assert bias_fields({"untied": {"0": layers["0"]}}).get_supxlabel() == ""


def test_differences_are_drawn_where_they_are() -> None:
    figure: Any = differences({"none": (0.2, 0.1), "": (-0.3, None)}, "RMSE", "tied")
    (axes,) = figure.axes
    points = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert points == [[[0.2, 0]], [[-0.3, 1]]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", '""']
    assert "to the left is better" in axes.get_xlabel()


def test_shares_fill_their_bars() -> None:
    parts = {"data": 0.9, "padding": -0.2, "tied": 0.0, "position": 0.3}
    figure: Any = decomposition({"tied": {"a": parts, "b": parts}, "untied": {"a": parts}})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["layer a", "layer b"]
    bars = figure.axes[0].patches[:4]
    assert [(round(b.get_x(), 3), round(b.get_width(), 3)) for b in bars] == [
        *((0.0, 0.9), (0.0, -0.2), (0.9, 0.0), (0.9, 0.3)),
    ]
    with pytest.raises(ShapeError, match="has no layer"):
        decomposition({})


# The tying, and how many numbers each term and filter shows on a 3 by 3 kernel's padded 4 by 5 outputs.
SHARED = {
    "none": [0, 0],
    "": [1, 1],
    "tied": [1, 1],
    "c h": [4, 4],
    "h w": [20, 20],
    "c h + c w": [4, 4, 5, 5],
    "tap": [9, 9],
    "c + tap": [1, 1, 9, 9],
    "rank:1": [20, 20],
    "sym:flip_w": [12, 12],
    "untied": [20, 20],
}


@pytest.mark.parametrize("spelling", SHARED)
def test_outputs_that_share_a_bias_have_the_same_number(spelling: str) -> None:
    site = Site.of(2, Geometry.of(2, 3, padding=1), (4, 5))
    figure = sharing(spelling, site)
    shown = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert [len(numbers) for numbers in shown] == [20 * (spelling != "none")] * len(shown)
    assert [len(set(numbers)) for numbers in shown] == SHARED[spelling]
    tying = convbias.parse(spelling)
    count = sum(int(np.prod(shape)) for shape in tying.shapes(site).values())
    counted = f"{count} parameter" + "s" * (count != 1)
    assert figure.get_suptitle() == f'"{tying!r}": {counted} for 40 outputs'
    # No number means one thing in one term and another in the next.
    if spelling in ("c h + c w", "c + tap"):
        assert not set(shown[0] + shown[1]) & set(shown[2] + shown[3])
    if spelling == "h w":
        assert shown[0] == shown[1]
    if spelling == "c h":
        assert [len(set(shown[0][5 * row : 5 * row + 5])) for row in range(4)] == [1] * 4
        assert not set(shown[0]) & set(shown[1])


def test_regions_share_and_what_cannot_be_drawn_is_said() -> None:
    site = Site(1, 2, output_size=(2, 2))
    figure = sharing(Regions(torch.tensor([[0, 0], [1, 0]])), site)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "0", "1", "0"]
    # Filter by filter: a line as a strip, a volume with its slices below each other.
    for size, spelling, numbers in (((4,), "untied", "0123"), ((2, 1, 3), "c d", "000111")):
        figure = sharing(spelling, Site(1, len(size), output_size=size))
        assert "".join(text.get_text() for text in figure.axes[0].texts) == numbers
    with pytest.raises(ShapeError, match="this needs the output's size"):
        sharing("tied", Site(1, 2))
    assert not sharing("untied", Site(1, 2, output_size=(30, 30))).axes[0].texts


def texts(figure: Any) -> list[Any]:
    """Where a figure's texts are, in pixels of the figure."""
    figure.draw_without_rendering()
    found = [
        figure._suptitle,
        *(axes.title for axes in figure.axes),
        *(axes.yaxis.label for axes in figure.axes),
    ]
    return [text.get_window_extent() for text in found if text is not None and text.get_text()]


LAYERS = {f"encoder.stage{i}.blocks.0.convolution_with_bias": torch.randn(2, 6, 6) for i in range(3)}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: sharing("c h + c w", Site.of(1, Geometry.of(2, 3, padding=1), (6, 6))),
        lambda: sharing("tap", Site.of(1, Geometry.of(2, 3, padding=1), (5, 5))),
        lambda: sharing(Regions(torch.tensor([[0, 0], [1, 0]])), Site(1, 2, output_size=(2, 2))),
        lambda: bias_fields({"c h + c w": LAYERS, "untied": LAYERS}),
        lambda: bias_fields({"untied": {"features.layer1.0.conv1": torch.randn(1, 8, 8)}}),
        lambda: bias_fields(
            {"a": {"l": torch.randn(2, 6, 8)}}, [("lat", [5, 4, 3, 2, 1, 0]), ("lon", range(8))]
        ),
        lambda: bias_fields({"a": {"l": torch.randn(2, 4, 4)}}),
        lambda: bias_fields({"a": {f"l{i}": torch.randn(3, 6, 6) for i in range(6)}}),
        lambda: model_fields(torch.nn.Conv2d(1, 1, 3), torch.randn(1, 1, 8, 40)),
    ],
)
def test_titles_are_read_whole(draw: Any) -> None:
    figure = draw()
    boxes = texts(figure)
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_names_of_layers_end_lines_after_dots() -> None:
    figure = bias_fields({"untied": {"encoder.stage1.conv_with_bias": torch.randn(1, 4, 4)}})
    assert images(figure)[0].get_title() == "layer encoder.\nstage1.conv_\nwith_bias\nfilter 0"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: bias_fields({"untied": {"": torch.randn(1, 4, 4)}}),
        lambda: sharing("tied", Site(1, 2, output_size=(2, 2))),
        lambda: differences({"none": (0.1, None)}, "RMSE"),
        lambda: learning_curves({"tied": [(3.0, 1.0)]}, "RMSE"),
        lambda: decomposition({"tied": {"": dict.fromkeys(("data", "padding", "tied", "position"), 0.25)}}),
    ],
)
def test_a_notebook_shows_a_figure_by_itself(draw: Any) -> None:
    assert draw()._repr_png_().startswith(b"\x89PNG")


def test_errors_on_a_log_scale_are_written_as_numbers() -> None:
    figure: Any = learning_curves({"tied": [(3.0, 0.2)]}, "RMSE")
    figure.draw_without_rendering()
    labels = {text.get_text() for text in figure.axes[0].get_yticklabels(which="both")}
    assert {"0.2", "0.5", "1", "2"} <= labels
    assert {label for label in labels if "$" in label or "e" in label} == set()


def test_a_model_is_drawn_as_its_layers_fields_and_as_the_parts_of_its_outputs() -> None:
    layer = convbias.Conv2d(1, 2, 3, padding=1, bias="untied", output_size=(5, 6))
    torch.nn.init.normal_(layer.get_parameter("bias"))
    x = torch.randn(3, 1, 5, 6)
    field = layer.bias_field((5, 6))[1].detach()
    drawn = images(model_fields(layer, x))
    np.testing.assert_allclose(drawn[1].images[0].get_array(), field, atol=1e-6)
    rows = [axes.images[0].get_array() for axes in images(part_maps(convbias.decompose(layer, x), image=2))]
    with torch.no_grad():
        np.testing.assert_allclose(rows[1], layer(x)[2, 1], atol=1e-5)
    np.testing.assert_allclose(sum(rows[3::2]), rows[1], atol=1e-5)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_is_left_out_of_the_scale(wrong: float) -> None:
    field = torch.linspace(-2, 2, 36).reshape(1, 6, 6)
    field[0, 2, 2] = wrong
    figure = bias_fields({"untied": {"": field}})
    assert images(figure)[0].images[0].norm.vmax == pytest.approx(2, rel=0.01)


def test_wrong_arguments_of_plots(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="different numbers of filters in 'l'"):
        bias_fields({"a": {"l": torch.ones(2, 4, 4)}, "b": {"l": torch.ones(5, 9, 9)}})
    parts = convbias.decompose(torch.nn.Conv2d(1, 2, 3), torch.randn(2, 1, 8, 8))
    with pytest.raises(ShapeError, match="image=5: there are 2 of them"):
        part_maps(parts, image=5)
    figure = bias_fields({"a": {"l": torch.ones(2, 4, 4)}})
    for name in ("x", "x.xyz"):
        with pytest.raises(convbias.errors.OutputError, match="must end in a format, such as"):
            save(figure, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_does_not_look_like_zero(wrong: float) -> None:
    field = torch.zeros(1, 3, 3)
    assert [axes.get_xlabel() for axes in bias_fields({"a": {"": field}}).axes] == ["", ""]
    field[0, 1, 1] = wrong
    figure = bias_fields({"a": {"": field}})
    (shown,) = images(figure)[0].images
    found = shown.to_rgba(shown.get_array(), norm=True)
    assert found[1, 1][:3] == pytest.approx((1, 0.816, 0), abs=0.01)
    assert found[0, 0][:3] == pytest.approx((0.97, 0.97, 0.97), abs=0.01)
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "yellow: not finite"]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1e39, torch.float64), (1e300, torch.float64), (1.7e308, torch.float64), (3e38, torch.float32)],
)
@pytest.mark.filterwarnings("error")
def test_huge_numbers_have_their_colours(size: float, dtype: torch.dtype) -> None:
    field = torch.tensor([[[-1, 0, 1]] * 3], dtype=dtype) * size
    figure = bias_fields({"a": {"": field}})
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (shown,) = images(figure)[0].images
    red, _, blue = np.moveaxis(shown.make_image(canvas.get_renderer())[0][..., :3], -1, 0)
    low, _, high = (np.s_[:, part] for part in (0, 0, -1))
    assert (blue[low] > red[low]).all()
    assert (red[high] > blue[high]).all()


def test_a_scale_that_leaves_numbers_out_says_so() -> None:
    field = torch.linspace(-1, 1, 400).reshape(1, 20, 20)
    bars = {}
    for name, outlier in (("neither", 0.0), ("max", 5.0), ("min", -5.0)):
        changed = field.clone().clamp(-0.5, 0.5)
        changed[0, 10, 10] = outlier
        bars[name] = bias_fields({"a": {"": changed}}).axes[-1]._colorbar  # type: ignore[attr-defined]
    assert {name: bar.extend for name, bar in bars.items()} == {name: name for name in bars}
    # Of few numbers none is left out.
    few = torch.zeros(1, 6, 6)
    few[0, 0, 0] = 5
    assert bias_fields({"a": {"": few}}).axes[-1].get_xticklabels()[-1].get_text() == "5"


def test_a_long_field_is_no_hairline() -> None:
    for field, aspect in ((torch.randn(1, 2, 2000), "auto"), (torch.randn(1, 4, 8), 1.0)):
        assert images(bias_fields({"a": {"": field}}))[0].get_aspect() == aspect


def test_points_without_neighbours_are_drawn() -> None:
    figure: Any = learning_curves({"tied": [[3.0], [4.0]], "untied": [[2.0], [1.0]]}, "error")
    assert [line.get_markevery() for line in figure.axes[0].lines] == [[0], [0]]
    assert figure.axes[0].get_xticks().tolist() == [1]
    figure = learning_curves({"tied": [[3.0, float("nan"), 2.0, 1.0]], "none": []}, "error")
    (line,) = figure.axes[0].lines
    assert (line.get_marker(), line.get_markevery()) == ("o", [0])


def test_wrong_data_of_studies_and_fields_are_told() -> None:
    with pytest.raises(ShapeError, match="the curves of 'tied' must have as many epochs"):
        learning_curves({"tied": [[3.0, 2.0], [4.0, 2.0, 1.0]]}, "error")
    with pytest.raises(ShapeError, match="must have the parts data, padding, tied, position"):
        decomposition({"tied": {"a": {"data": 1.0}}})
    with pytest.raises(ShapeError, match=r"field=\[0, 6, 6\]: has no entries"):
        bias_fields({"a": {"": torch.zeros(0, 6, 6)}})
    array: Any = np.ones((1, 2, 2), np.float32)
    assert images(bias_fields({"a": {"": array}}))[0].images[0].get_array().tolist() == [[1, 1], [1, 1]]


def test_bias_layers_are_drawn_alone_and_in_a_model() -> None:
    layer, x = convbias.Bias(2, (4, 5)), torch.randn(3, 2, 4, 5)
    torch.nn.init.normal_(layer.get_parameter("bias"))
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), layer)
    for drawn, title in ((model_fields(layer, x), "the layer"), (model_fields(model, x), "layer 1")):
        fields = {axes.get_title(): axes.images[0].get_array() for axes in images(drawn)}
        field = layer.bias_field((4, 5)).detach()
        np.testing.assert_array_equal(fields[f"{title}\nfilter 1"], field[1].numpy())
    assert not layer._forward_hooks
