"""The page, in a real browser: it computes what the library does, and every control does its work."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from torch import Tensor

import convbias
from convbias import Geometry, parse
from convbias.errors import OutputError
from convbias.explaining import page as html
from convbias.explaining import write
from convbias.geometry import Site

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
WAYS = ("none", "tied", "tap", "input", "c h", "c w", "rank:1", "grid:3", "untied")
ACTIVATIONS = ("none", "relu", "leaky_relu", "silu", "sigmoid", "tanh")
CLOSE = 1e-12


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "explain.html"
    write(path)
    return path.as_uri()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1280, "height": 800})
    made.set_default_timeout(10_000)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, file: str) -> Iterator[Page]:
    """The page, opened; it must not complain, nor ask for anything but itself."""
    opened = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(file)
    yield opened
    assert complaints == []
    assert {url.split("#")[0] for url in asked if not url.startswith("data:")} <= {file}


@pytest.fixture(scope="module")
def calculator(browser: Browser, file: str) -> Iterator[Page]:
    """The page as a calculator: what it computes is asked of it, without looking at the screen."""
    opened = browser.new_page()
    opened.goto(file)
    yield opened
    opened.close()


def state(page: Page) -> dict[str, Any]:
    return page.evaluate("convbias.get()")


def expected(way: str, numbers: dict[str, Any]) -> dict[str, Tensor]:
    """What the library computes from the page's input, filter, b and map."""
    x, w, b, map_ = (torch.tensor(numbers[name], dtype=torch.float64) for name in ("x", "w", "b", "map"))
    k, s, p, d = (numbers[name] for name in ("kernel", "stride", "padding", "dilation"))
    geometry = Geometry.of(2, k, s, p, d)
    site = Site.of(2, geometry, tuple(x.shape[1:]))
    words = {"stride": s, "padding": p, "dilation": d, "groups": numbers["groups"]}
    x = numbers["gain"] * x[None]
    sums = F.conv2d(x, w, **words)
    if way == "input":
        shift = b[: x.shape[1], None, None].expand(x.shape)
        field = F.conv2d(shift, w, **words)[0]
    elif way == "tap":
        field = parse("tap").expand([b[:, None, None].expand(2, k, k)], site)
    elif way == "tied":
        field = parse("tied").expand([b], site)
    else:
        tying = parse(way)
        field = tying.expand(tying.project(b[:, None, None] + map_, site), site)
    z = sums[0] + field
    y = z if numbers["act"] == "none" else getattr(F, numbers["act"])(z)
    return {"sums": sums[0], "field": field.to(z).expand_as(z), "z": z, "y": y}


def agrees(calculator: Page, fragment: str) -> None:
    """Every way's sums, field and outputs are the library's; and the link of what is shown restores it."""
    found = calculator.evaluate(
        """([fragment, ways]) => {
            const follow = (link) => {
                location.hash = link;
                window.dispatchEvent(new Event("hashchange"));
                return convbias.get();
            };
            const states = [follow(fragment), follow(convbias.fragment())];
            const outputs = ways.map((way) => convbias.outputs(way));
            return [states, convbias.numbers(), outputs, message.textContent];
        }""",
        [fragment, WAYS],
    )
    (state, restored), numbers, by_way, message = found
    assert restored == state
    assert message == ""
    for way, outputs in zip(WAYS, by_way, strict=True):
        for name, wanted in expected(way, numbers).items():
            shown = torch.tensor(outputs[name], dtype=torch.float64)
            torch.testing.assert_close(
                shown,
                wanted,
                rtol=CLOSE,
                atol=CLOSE,
                msg=lambda said, way=way, name=name: f"{way}, {name}: {said} at {fragment[:300]}",
            )


GEOMETRIES = [
    (k, s, p, d)
    for k, s, p, d in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2, 3), (1, 2, 3))
    if d * (k - 1) + 1 <= 8 + 2 * p
]


def test_every_geometry_is_computed_as_the_library_does(calculator: Page) -> None:
    assert len(GEOMETRIES) == 132
    for number, (k, s, p, d) in enumerate(GEOMETRIES):
        channels, groups = ((1, 1), (2, 1), (2, 2))[number % 3]
        agrees(
            calculator,
            f"kernel={k}&stride={s}&padding={p}&dilation={d}&channels={channels}&groups={groups}"
            f"&map={('corners', 'rows', 'columns', 'island', 'flat')[number % 5]}",
        )


@given(st.data())
def test_any_numbers_are_computed_as_the_library_does(calculator: Page, data: st.DataObject) -> None:
    kernel, stride, padding, dilation = data.draw(st.sampled_from(GEOMETRIES))
    channels, groups = data.draw(st.sampled_from([(1, 1), (2, 1), (2, 2)]))
    number = st.floats(-2, 2).map(lambda value: round(value, 3))
    out = (8 + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1

    def drawn(count: int) -> str:
        seed = data.draw(st.integers(0, 2**20))
        values = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return "+".join(map(repr, values.tolist()))

    words = {
        **{"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation},
        **{"channels": channels, "groups": groups, "act": data.draw(st.sampled_from(ACTIVATIONS))},
        **{"b": f"{data.draw(number)}+{data.draw(number)}", "gain": data.draw(number)},
        "input": drawn(channels * 64),
        "filter": drawn(2 * channels // groups * kernel**2),
        "map": drawn(2 * out**2),
    }
    agrees(calculator, "&".join(f"{name}={value}" for name, value in words.items()))


def run_program(text: str) -> Tensor:
    names: dict[str, Any] = {"print": lambda *_: None}
    exec(compile(text, "the page's program", "exec"), names)
    return names["y"][0]


@pytest.mark.parametrize("way", WAYS)
def test_the_program_computes_what_is_on_the_screen(calculator: Page, way: str) -> None:
    for groups, act in ((1, "none"), (2, "silu")):
        text, shown, line = calculator.evaluate(
            """(change) => {
                convbias.set(change);
                return [convbias.program(), convbias.outputs(convbias.get().bias).y, python.textContent];
            }""",
            {**{"bias": way, "channels": 2, "groups": groups, "kernel": 2}, "stride": 2, "act": act},
        )
        y = run_program(text)
        torch.testing.assert_close(y, torch.tensor(shown, dtype=torch.float64), rtol=CLOSE, atol=CLOSE)
        layer = eval(line, {"convbias": convbias}).double()
        assert layer(torch.zeros(1, 2, 8, 8).double()).shape[1:] == y.shape
        assert repr(layer.tying) == ("tap" if way == "input" else way)


def test_a_link_restores_what_was_on_the_screen(page: Page, context: BrowserContext, file: str) -> None:
    geometry = "channels: 2, groups: 2, kernel: 2, stride: 2, padding: 2"
    page.evaluate(f"convbias.set({{ {geometry}, act: 'tanh', bias: 'rank:1' }})")
    page.get_by_label("input channel 1, row 2, column 3").fill("0.1234567890123")
    page.get_by_label("filter 0, row 1, column 1", exact=True).fill("-1,5")
    page.evaluate("convbias.set({at: [1, 2, 3], b: [0.1, 1/3], gain: -0.7, map: 'island'})")
    # The link is written a moment after the last change.
    page.wait_for_function("location.hash.includes('island')")
    again = context.new_page()
    again.goto(page.url)
    assert again.url != file
    assert state(again) == state(page)
    assert state(page)["own"]["input"][64 + 19] == 0.1234567890123
    for place in ("#output", "#field", "#formula", "#python", "#answer-rows"):
        assert again.locator(place).inner_text() == page.locator(place).inner_text()


@pytest.mark.parametrize(
    ("fragment", "said"),
    [
        ("stride=9", "stride=9"),
        ("kernel=5&dilation=3", "a window of 13 does not fit in 10"),
        ("groups=2", "2 groups need as many channels"),
        ("at=0+0.5+0", "at=0 0.5 0"),
        ("b=1", "b=1"),
        ("gain=NaN", "gain=NaN"),
        ("b=99+0", "b=99 0 (from −2 to 2)"),
        ("gain=-3", "gain=-3 (from −2 to 2)"),
        ("input=1+2+3", "input of another size"),
        ("filter=1e999", "filter=1e999"),
        ("nothing=1", "nothing=1"),
        ("act=constructor", "act=constructor"),
        ("b=%2B1", "b=+1"),
        ("b=+1", "b= 1"),
        ("b=1+", "b=1 "),
        ("at=0++3", "at=0 "),
        ("gain=0x2", "gain=0x2"),
        ("input=" + "+".join(["0x10"] * 64), "input=0x10"),
        ("at=5+0+0", "at=5 0 0"),
        ("at=0+99+0", "at=0 99 0"),
        ("stride=2&stride=3", "stride=2, stride=3"),
        ("input=constructor", "input=constructor"),
    ],
)
def test_a_link_that_is_not_understood_says_so(page: Page, file: str, fragment: str, said: str) -> None:
    before = state(page)
    page.goto(f"{file}#{fragment}")
    page.reload()
    assert said in page.locator("#message").inner_text()
    assert state(page) == before


def test_a_geometry_that_cannot_be_leaves_what_there_was(page: Page) -> None:
    page.locator("[data-choice=kernel]").select_option("5")
    page.locator("[data-choice=dilation]").select_option("3")
    assert "a window of 13 does not fit in 10" in page.locator("#message").inner_text()
    assert (state(page)["kernel"], state(page)["dilation"]) == (5, 1)
    assert page.locator("[data-choice=dilation]").input_value() == "1"
    page.locator("[data-choice=padding]").select_option("3")
    page.locator("[data-choice=dilation]").select_option("3")
    assert state(page)["dilation"] == 3
    assert page.locator("#output [role=gridcell]").count() == 4


SELECTS = {
    "input": ("digit 7", "ramp", "zeros"),
    "filter": ("blur", "ones", "zeros"),
    "map": ("island", "rows", "flat"),
    "kernel": ("1", "2", "5"),
    "stride": ("2", "3"),
    "padding": ("0", "3"),
    "dilation": ("2",),
    "act": ("none", "tanh"),
}


@pytest.mark.parametrize("name", SELECTS)
def test_every_list_changes_what_is_computed(page: Page, name: str) -> None:
    page.locator("[name=bias][value=untied]").check(force=True)
    seen = {page.locator("#output").inner_text()}
    for value in SELECTS[name]:
        page.locator(f"[data-choice={name}]").select_option(value)
        assert str(state(page)[name]) == value
        seen.add(page.locator("#output").inner_text())
    assert len(seen) == 1 + len(SELECTS[name])


def test_channels_and_groups(page: Page) -> None:
    grids = page.locator("#input .grid")
    for value, channels, kernels in (("2 1", 2, 2), ("2 2", 2, 1), ("1 1", 1, 1)):
        page.locator("[data-choice=channels]").select_option(value)
        assert (grids.count(), page.locator("#filter .grid").count()) == (channels, kernels)
    page.locator("[data-choice=channels]").select_option("2 2")
    page.get_by_label("filter 1", exact=True).check()
    assert [grids.nth(i).get_attribute("class") for i in (0, 1)] == ["grid drawn unread", "grid drawn"]
    assert state(page)["at"][0] == 1


def shown(page: Page) -> list[float]:
    text = page.locator("#output").inner_text().replace("−", "-").split()
    return [float(word) for word in text]


def test_what_is_on_the_screen_is_what_was_computed(page: Page) -> None:
    page.locator("[name=bias][value=tap]").check(force=True)
    page.get_by_role("button", name="in the corner").click()
    assert state(page)["at"] == [0, 0, 0]
    y = page.evaluate("convbias.outputs('tap').y[0].flat()")
    assert shown(page) == pytest.approx(y, abs=0.00501)
    rows = page.locator("#answer-rows").inner_text()
    assert "= 0.5 + 1 × (0.5)\t= 1" in rows
    assert "= 0.5 + 4 × (0.5)\t= 2.5" in rows
    assert "only 4 of 9 entries are inside" in page.locator("#answer-here").inner_text()
    assert page.locator("#window .absent").count() == 5
    formula = page.locator("#formula").inner_text()
    assert formula.startswith("y[0, 0, 0] = relu( [")
    assert formula.count("+ 0.5)") == 4
    assert formula.endswith("] ) = relu(2.5) = 2.5")
    page.locator("[name=bias][value=tied]").check(force=True)
    # The bias is added before the activation, and reads so.
    assert page.locator("#formula").inner_text().endswith("] + 0.5 ) = relu(1) = 1")
    page.locator("[data-choice=act]").select_option("none")
    assert page.locator("#formula").inner_text().endswith("] + 0.5 = 1")
    page.locator("[data-choice=act]").select_option("relu")
    page.get_by_role("button", name="in the middle").click()
    assert "all 9 entries are inside" in page.locator("#answer-here").inner_text()
    page.get_by_role("button", name="at the edge").click()
    assert "only 6 of 9" in page.locator("#answer-here").inner_text()
    assert "6 of 9 entries inside" in page.locator("#announce").inner_text()


def test_an_output_is_chosen_by_pointer_and_by_keys(page: Page) -> None:
    page.locator("#field [data-y='7'][data-x='7']").click()
    assert state(page)["at"] == [0, 7, 7]
    page.locator("#output [aria-selected=true]").focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert state(page)["at"] == [0, 6, 7]
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    assert page.locator("#output [tabindex='0']").count() == 1


def test_numbers_are_typed_cell_by_cell(page: Page) -> None:
    page.get_by_label("input, row 0, column 0").click()
    page.keyboard.type("-.25")
    page.keyboard.press("ArrowRight")
    page.keyboard.type("7")
    assert state(page)["input"] == "own"
    assert page.evaluate("convbias.numbers().x[0][0].slice(0, 3)") == [-0.25, 7, 0.4375]
    box = page.get_by_label("input, row 0, column 2")
    box.fill("seven")
    assert box.get_attribute("aria-invalid") == "true"
    page.get_by_label("input, row 5, column 5").click()
    assert (box.get_attribute("aria-invalid"), box.input_value()) == (None, ".44")
    assert page.locator("[data-choice=input]").input_value() == "own"
    page.get_by_label("filter 0, row 2, column 0", exact=True).fill("3")
    assert page.evaluate("convbias.numbers().w[0][0][2][0]") == 3
    page.locator("[name=bias][value=untied]").check(force=True)
    page.get_by_role("textbox", name="bias, row 1, column 1").fill("2")
    assert page.evaluate("convbias.outputs('untied').field[0][1][1]") == 2
    page.get_by_role("button", name="Start again").click()
    assert (state(page)["input"], state(page)["own"]) == ("digit 3", {})


@pytest.mark.parametrize("steps", [20, 1])
def test_the_input_is_drawn_by_dragging(page: Page, steps: int) -> None:
    """A fast stroke is as whole as a slow one."""
    page.locator("[data-choice=input]").select_option("zeros")
    at = [page.get_by_label(f"input, row 4, column {x}").bounding_box() for x in (2, 6)]
    (left, right) = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in at if box]
    for wanted in (1, 0):
        page.mouse.move(*left)
        page.mouse.down()
        page.mouse.move(*right, steps=steps)
        page.mouse.up()
        page.mouse.move(*left)
        assert page.evaluate("convbias.numbers().x[0][4]") == [0, 0, *[wanted] * 5, 0]


def test_sliders_and_the_plot_move_b_and_the_amplitude(page: Page) -> None:
    page.get_by_label("b of filter 0").fill("-1.5")
    page.get_by_label("amplitude", exact=True).fill("0.5")
    assert (state(page)["b"], state(page)["gain"]) == ([-1.5, -0.25], 0.5)
    plot = page.locator("#amplitude-plot")
    for circle, by, name in ((".intercept", (0, -30), "b"), (".amplitude", (40, 0), "gain")):
        before = state(page)[name]
        box = plot.locator(circle).bounding_box()
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + by[0], y + by[1], steps=4)
        page.mouse.up()
        page.mouse.move(x, y)
        now = state(page)[name]
        assert (now[0] > before[0] and now[1] == before[1]) if name == "b" else now > before
    page.locator("[name=bias][value=none]").check(force=True)
    assert plot.locator(".intercept").get_attribute("r") == "4"
    page.locator("[name=bias][value=input]").check(force=True)
    assert page.locator("#b-label").inner_text() == "b of input channel 0"


def test_the_ways_stand_beside_each_other(page: Page) -> None:
    cards = page.locator(".way")
    assert [card.locator("input").get_attribute("value") for card in cards.all()] == list(WAYS)
    facts = {
        card.locator("input").get_attribute("value"): card.locator(".facts").inner_text().split()
        for card in cards.all()
    }
    counts = {way: int(words[0]) for way, words in facts.items()}
    site = Site(2, 2, Geometry.of(2, 3, padding=1), (8, 8))
    for way in set(WAYS) - {"input"}:
        shapes = parse(way).shapes(site).values()
        assert counts[way] == sum(torch.Size(shape).numel() for shape in shapes)
    assert counts["input"] == 1
    # The filter edges adds up to 0, and shows a bias on the input at the border alone.
    fact = {way: " ".join(words[2:]) for way, words in facts.items()}
    assert fact["none"] == "x = 0: 0 k = 0: 0 through the origin"
    assert fact["tied"] == "x = 0: .5 k = 0: .5 off the origin"
    assert fact["tap"] == "x = 0: 2 to 4.5 k = 0: 2 to 4.5 off the origin"
    assert fact["input"] == "x = 0: −2 to 2 k = 0: 0 off the origin"
    # Before the activation, whatever it is.
    page.locator("[data-choice=act]").select_option("sigmoid")
    assert cards.nth(0).locator(".facts").inner_text().split()[5] == "0"
    assert "before the activation" in page.locator(".cards legend").inner_text()
    cards.nth(0).locator("input").focus()
    for way in WAYS[1:]:
        page.keyboard.press("ArrowRight")
        assert state(page)["bias"] == way or page.keyboard.press("ArrowRight") is None
    assert state(page)["bias"] in WAYS


def test_playing_moves_the_window_until_it_is_stopped(page: Page) -> None:
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("convbias.get().at[2] === 5")
    # It is not read aloud cell by cell, but where it stops.
    assert "row 3, column 3" in page.locator("#announce").inner_text()
    page.get_by_role("button", name="Stop").click()
    stood = state(page)["at"]
    assert f"row {stood[1]}, column {stood[2]}" in page.locator("#announce").inner_text()
    page.wait_for_timeout(700)
    assert state(page)["at"] == stood
    assert page.get_by_role("button", name="Play").get_attribute("aria-pressed") == "false"


def test_copying(page: Page, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy as a program").click()
    page.wait_for_function("message.textContent.includes('copied')")
    text = page.locator("#copied").input_value()
    y = page.evaluate("convbias.outputs('tied').y")
    torch.testing.assert_close(
        run_program(text), torch.tensor(y, dtype=torch.float64), rtol=CLOSE, atol=CLOSE
    )
    page.get_by_role("button", name="Copy the link").click()
    assert "#channels=1&" in page.locator("#copied").input_value()
    page.locator("[data-choice=kernel]").select_option("2")
    # What stands there to be copied is of what is on the screen.
    assert "&kernel=2&" in page.get_by_role("textbox", name="The link").input_value()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280, 1920])
def test_every_width_and_both_themes(browser: Browser, file: str, width: int, scheme: Any) -> None:
    opened = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened.goto(f"{file}#channels=2&kernel=5&padding=2&bias=untied")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    contrasts = opened.evaluate(CONTRASTS)
    assert len(contrasts) > 300
    assert min(contrasts) >= 4.5
    opened.close()


# The contrast of every text with what is behind it, as the Web Content Accessibility Guidelines have it.
CONTRASTS = """() => {
    const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const behind = (e) => {
        const found = rgb(getComputedStyle(e).backgroundColor);
        return found[3] === 0 && e.parentElement ? behind(e.parentElement) : found;
    };
    const written = (e) => e.tagName === "INPUT"
        ? e.type === "text" && e.value
        : [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    return [...document.querySelectorAll("body *")]
        .filter((e) => written(e) && !e.closest("svg, [hidden], option, script, noscript, .unread"))
        .map((e) => [light(rgb(getComputedStyle(e).color)), light(behind(e))])
        .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
}"""


def test_every_control_has_a_name_and_the_answer_needs_no_scrolling(page: Page) -> None:
    controls = page.locator("button, select, input, textarea, [role=grid], svg[role=img]").all()
    assert len(controls) > 90
    assert (
        page.evaluate(
            """() => [...document.querySelectorAll("button, select, input, [role=grid], svg[role=img]")]
            .filter((e) => !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") ||
                e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)"""
        )
        == []
    )
    page.locator("[data-choice=channels]").select_option("2 1")
    for name in ("input", "filter", "products"):
        for channel in (0, 1):
            assert page.get_by_role("grid", name=f"{name}, channel {channel}", exact=True).count() == 1
    for place in ("h1", ".answer", "#answer-rows", "#answer-here", "#play"):
        box = page.locator(place).bounding_box()
        assert box
        assert box["y"] + box["height"] < 200


def test_who_wants_less_motion_gets_none(browser: Browser, file: str) -> None:
    opened = browser.new_page(reduced_motion="reduce")
    opened.goto(file)
    style = "getComputedStyle(document.querySelector('#input .grid'), '::after').transitionDuration"
    assert opened.evaluate(style) == "0s"
    opened.emulate_media(reduced_motion="no-preference")
    assert opened.evaluate(style).startswith("0.25s")
    opened.close()


def test_the_page_is_one_small_file_that_needs_nothing() -> None:
    text = html()
    assert len(text.encode()) < 100_000
    assert re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)|url\(|@import|^import |^export ", text, re.M) == []
    assert "https://" not in text
    digits = json.loads(re.findall(r"const DIGITS = (.*);", text)[0])
    assert len(digits) == 10


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    write(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == html()
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / "missing" / "page.html")


def test_large_numbers_keep_their_digits(page: Page) -> None:
    page.locator("#input input[data-y='3'][data-x='3']").first.fill("1234")
    page.locator("#filter input[data-y='1'][data-x='1']").first.fill("1")
    page.wait_for_function("document.getElementById('formula').textContent.includes('1·1234')")
    said = page.locator("body").inner_text()
    assert re.search(r"= 123\d\.\d", said)
    assert "1240" not in said
    page.evaluate("location.hash = 'gain=-1'")
    page.wait_for_function("document.body.innerText.includes('\u22121.38')")
    assert "\u22121.37" not in page.locator("body").inner_text()


def test_numbers_that_a_link_could_not_hold_are_not_taken(page: Page) -> None:
    box = page.locator("#input input[data-y='0'][data-x='0']").first
    for text in ("1e9", "1e308", "0x10", "abc", ""):
        box.fill(text)
        assert box.get_attribute("aria-invalid") == "true", text
    box.fill("-2.5e1")
    assert box.get_attribute("aria-invalid") == "false"


def test_a_grid_of_numbers_is_one_stop_of_the_tab_key(page: Page) -> None:
    for grid in ("#input", "#filter"):
        for one in page.locator(f"{grid} .grid, {grid}.grid").all():
            assert one.locator("input[tabindex='0']").count() == 1
    first = page.locator("#input input[tabindex='0']").first
    first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.locator("#input input[tabindex='0']").first.get_attribute("data-y") == "1"
    assert page.evaluate("document.activeElement.dataset.x") == "1"


def test_the_intercept_follows_the_pointer(page: Page) -> None:
    plot = page.locator("#amplitude-plot")
    box = plot.bounding_box()
    assert box is not None

    def knob() -> tuple[float, float]:
        here = plot.locator(".intercept").bounding_box()
        assert here is not None
        return here["x"] + here["width"] / 2, here["y"] + here["height"] / 2

    x, y = knob()
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 7):
        page.mouse.move(x, y - step)
    page.wait_for_timeout(50)
    assert abs(knob()[1] - (y - 6)) < 2.5
    page.mouse.up()


@pytest.mark.parametrize("gain", ["1", "-1"])
@pytest.mark.parametrize("at", ["0+2+1", "0+2+5"])
def test_the_intercepts_label_is_not_covered(page: Page, gain: str, at: str) -> None:
    """Whether the line rises or falls, and on whichever side the amplitude's knob is."""
    page.evaluate("(link) => (location.hash = link)", f"gain={gain}&at={at}&filter=edges")
    page.wait_for_function("(at) => convbias.get().at.join('+') === at", arg=at)
    label, knob = (
        page.locator("#amplitude-plot").locator(part).bounding_box() for part in ("text", ".amplitude")
    )
    assert label
    assert knob
    assert label["x"] + label["width"] <= knob["x"] or knob["x"] + knob["width"] <= label["x"]


def test_the_formula_is_shown_whole(page: Page) -> None:
    for width, link in ((1280, "kernel=5&channels=2&padding=2&bias=tap"), (360, "kernel=3")):
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate("(link) => (location.hash = link)", link)
        page.wait_for_timeout(50)
        shown = page.evaluate("[formula.scrollHeight - formula.clientHeight]")
        assert shown[0] <= 1


STATES = [
    "b=-2+2&gain=-2&bias=tap&act=none&filter=ones",
    "kernel=5&channels=2&padding=2&bias=tap",
    "kernel=1&padding=3&bias=untied",
    "kernel=5&stride=3&padding=3&channels=2&groups=2&bias=rank:1&b=-2+-2",
    "input=" + "+".join(["-123456.5"] * 64),
]
# What is cut or touches what is beside it: text that is wider, in its own font, than the box that it is in.
CUT = """() => {
    const pen = document.createElement("canvas").getContext("2d");
    const wide = (e) => {
        const style = getComputedStyle(e);
        pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
        return pen.measureText(e.value ?? e.textContent).width > e.clientWidth;
    };
    const over = (e) => e.scrollWidth > e.clientWidth + 1;
    return [
        ...[...document.querySelectorAll(".number")].filter(wide),
        ...[...document.querySelectorAll(".way *, h2, #python, button")].filter(over),
    ].map((e) => e.value || e.textContent);
}"""


@pytest.mark.parametrize("fragment", STATES)
def test_numbers_and_formulas_are_read_whole(page: Page, file: str, fragment: str) -> None:
    page.goto(f"{file}#{fragment}")
    page.reload()
    assert page.locator("#message").inner_text() == ""
    for width in (1280, 1024, 768, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(CUT) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width


def in_view(page: Page, place: str) -> bool:
    box, size = page.locator(place).bounding_box(), page.viewport_size
    assert box
    assert size
    return box["y"] >= 0 and box["y"] + box["height"] <= size["height"]


def test_a_refusal_is_seen_on_a_phone_and_stays_while_one_looks(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator("[data-choice=kernel]").select_option("5")
    page.locator("[data-choice=dilation]").select_option("3")
    assert in_view(page, "#message")
    page.locator("#output [data-y='1'][data-x='2']").click()
    assert state(page)["at"] == [0, 1, 2]
    assert "does not fit" in page.locator("#message").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#message").inner_text() == ""
    page.locator("[data-choice=dilation]").select_option("3")
    page.locator("[data-choice=act]").select_option("tanh")
    assert page.locator("#message").inner_text() == ""


def test_nonsense_in_a_cell_is_told(page: Page) -> None:
    box = page.get_by_label("input, row 0, column 0")
    for text, said in (
        ("seven", "“seven” is not a number"),
        ("1,234", "“1,234” can be 1.234 or 1234"),
        ("-12,345", "can be -12.345 or -12345"),
        ("2e6", "“2e6” is too large"),
    ):
        box.fill(text)
        assert said in page.locator("#message").inner_text()
        assert page.evaluate("convbias.numbers().x[0][0][0]") == 0
    # Those are not ambiguous; and who has just begun to write is not interrupted.
    for text, value in (("0,125", 0.125), ("1,5", 1.5), ("12,3456", 12.3456), ("−3", -3)):
        box.fill(text)
        assert page.evaluate("convbias.numbers().x[0][0][0]") == value
        assert page.locator("#message").inner_text() == ""
    for text in ("-", ".", "1e"):
        box.fill(text)
        assert (box.get_attribute("aria-invalid"), page.locator("#message").inner_text()) == ("true", "")


def test_a_cell_that_is_written_shows_all_its_digits(page: Page) -> None:
    box = page.get_by_label("input, row 0, column 2")
    assert box.input_value() == ".44"
    box.focus()
    assert box.input_value() == "0.4375"


def test_own_numbers_stay_where_they_fit(page: Page) -> None:
    page.get_by_label("filter 0, row 1, column 1", exact=True).fill("7")
    page.get_by_label("input, row 4, column 5").fill("9")
    page.locator("[data-choice=kernel]").select_option("5")
    w = page.evaluate("convbias.numbers().w[0][0]")
    assert (w[2], w[0]) == ([0, -2, 7, 2, 0], [0] * 5)
    page.locator("[data-choice=channels]").select_option("2 1")
    x, w = page.evaluate("[convbias.numbers().x, convbias.numbers().w]")
    assert x[0] == x[1]
    assert x[0][4][5] == 9
    assert [kernel[2][2] for kernel in w[0]] == [7, 7]
    page.locator("[data-choice=channels]").select_option("1 1")
    page.locator("[data-choice=kernel]").select_option("1")
    assert page.evaluate("convbias.numbers().w[0]") == [[[7]]]
    page.locator("[name=bias][value=untied]").check(force=True)
    page.get_by_role("textbox", name="bias, row 1, column 1").fill("2")
    page.locator("[data-choice=padding]").select_option("2")
    assert page.evaluate("convbias.outputs('untied').field[0][2][2]") == 2


def test_changes_are_undone(page: Page) -> None:
    box = page.get_by_label("filter 0, row 1, column 1", exact=True)
    box.fill("7")
    page.locator("[data-choice=kernel]").select_option("1")
    page.locator("#output [data-y='1'][data-x='2']").click()
    page.get_by_role("button", name="Undo").click()
    assert (state(page)["kernel"], state(page)["at"]) == (3, [0, 1, 2])
    assert page.evaluate("convbias.numbers().w[0][0][1]") == [-2, 7, 2]
    box.focus()
    page.keyboard.press("Control+z")
    assert (state(page)["filter"], state(page)["own"]) == ("edges", {})
    assert box.input_value() == "0"
    assert page.evaluate("document.activeElement.dataset.y") == "1"
    page.keyboard.press("Control+z")
    assert page.locator("#message").inner_text() == "There is nothing to undo."
    # The steps of one movement are one change.
    page.get_by_label("b of filter 0").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Undo").click()
    assert state(page)["b"] == [0.5, -0.25]


@pytest.mark.parametrize(
    ("fragment", "said"),
    [
        ("kernel=1", "the window is a single entry: adding b to each entry is adding it once."),
        ("kernel=1&padding=1&at=0+0+0", "the window's only entry is padding"),
        ("kernel=2&padding=1&at=0+0+0", "only 1 of 4 entries is inside"),
    ],
)
def test_small_windows_are_told_in_words_that_fit(page: Page, fragment: str, said: str) -> None:
    page.evaluate("(link) => (location.hash = link)", fragment)
    page.wait_for_function(
        "(said) => document.getElementById('answer-here').innerText.includes(said)", arg=said
    )


# Where the page's letters are in the layer, and what its program gives them.
LETTERS = {
    "none": "k is layer.weight; B is",
    "tied": "k is layer.weight, b layer.bias; B is",
    "tap": "k is layer.weight, b each number of layer.bias; B is",
    "input": "k is layer.weight, and b is added to x; B is",
    "c h": "k is layer.weight, b[row] layer.bias; B is",
    "c w": "k is layer.weight, b[column] layer.bias; B is",
    "rank:1": "k is layer.weight, b layer.bias, u layer.bias_u, v layer.bias_v; B is",
    "grid:3": "k is layer.weight, its points are layer.bias; B is",
    "untied": "k is layer.weight, b[place] layer.bias; B is",
}


@pytest.mark.parametrize("way", WAYS)
def test_the_letters_have_the_librarys_names_and_the_line_of_b_runs(calculator: Page, way: str) -> None:
    """Strides that leave entries over are those at which a tap field needs the input's size."""
    for stride, padding in ((1, 1), (2, 1), (3, 0)):
        line, names, program, shown = calculator.evaluate(
            """(change) => {
                convbias.set(change);
                const text = (id) => document.getElementById(id).textContent;
                const { field } = convbias.outputs(convbias.get().bias);
                return [text("python"), text("python-names"), convbias.program(), field];
            }""",
            {"bias": way, "channels": 2, "groups": 1, "kernel": 3, "stride": stride, "padding": padding},
        )
        assert names.startswith(LETTERS[way])
        layer = eval(line, {"convbias": convbias}).double()
        biases = [value for name, value in layer.named_parameters() if name.startswith("bias")]
        given: dict[str, Any] = {"print": lambda *_: None}
        exec(program, given)
        with torch.no_grad():
            for parameter, value in zip(biases, (given["bias"] or ("", []))[1], strict=True):
                parameter.copy_(value)
        field = eval(names.split("; B is ")[1].rstrip("."), {"layer": layer})
        wanted = torch.tensor(shown, dtype=torch.float64)
        torch.testing.assert_close(field.expand_as(wanted), wanted, rtol=CLOSE, atol=CLOSE)


def test_an_interaction_is_answered_at_once(page: Page, file: str) -> None:
    """From the event until the screen is laid out, in the heaviest state; the machine may be busy."""
    page.goto(f"{file}#kernel=5&channels=2&padding=3&bias=untied&at=0+3+3")
    page.reload()
    took = page.evaluate("""async () => {
        const times = [];
        for (let i = 0; i < 10; i++) {
            const cell = document.querySelector("#output [aria-selected=true]");
            const key = i % 2 ? "ArrowLeft" : "ArrowRight";
            const start = performance.now();
            cell.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
            document.body.getBoundingClientRect();
            times.push(performance.now() - start);
            await new Promise(requestAnimationFrame);
        }
        return Math.min(...times);
    }""")
    assert state(page)["at"] == [0, 3, 3]
    assert took < 100


def cell_of(page: Page, grid: str, y: int, x: int) -> Any:
    return page.locator(f"#{grid} [data-y='{y}'][data-x='{x}']").first


def test_a_pointer_that_passes_shows_an_output_and_chooses_none(page: Page, file: str) -> None:
    page.goto(f"{file}#at=0+0+0")
    page.reload()
    cell_of(page, "output", 2, 5).hover()
    assert page.locator("#formula").inner_text().startswith("y[0, 2, 5] =")
    assert state(page)["at"] == [0, 0, 0]
    # On the way from a chosen output to a slider the window comes back, and stays.
    box = page.get_by_label("b of filter 0").bounding_box()
    assert box
    page.mouse.move(box["x"] + 30, box["y"] + 8, steps=12)
    page.mouse.click(box["x"] + 30, box["y"] + 8)
    assert state(page)["b"][0] != 0.5
    assert page.locator("#formula").inner_text().startswith("y[0, 0, 0] =")


def test_a_click_keeps_an_output_until_another_or_escape(page: Page) -> None:
    def read() -> str:
        return page.locator("#formula").inner_text().split("]")[0]

    cell_of(page, "output", 7, 7).click()
    assert "Kept" in page.locator("#keeps").inner_text()
    cell_of(page, "output", 2, 5).hover()
    assert read() == "y[0, 7, 7"
    cell_of(page, "output", 3, 4).click()
    assert read() == "y[0, 3, 4"
    cell_of(page, "output", 3, 4).click()
    cell_of(page, "output", 2, 5).hover()
    assert read() == "y[0, 2, 5"
    page.get_by_role("button", name="in the corner").click()
    cell_of(page, "output", 2, 5).hover()
    assert (read(), page.locator("#output .kept").count()) == ("y[0, 0, 0", 1)
    page.keyboard.press("Escape")
    cell_of(page, "output", 2, 4).hover()
    assert (read(), state(page)["at"]) == ("y[0, 2, 4", [0, 0, 0])


def test_a_place_that_is_asked_for_ends_the_play(page: Page) -> None:
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="in the corner").click()
    page.wait_for_timeout(700)
    assert state(page)["at"] == [0, 0, 0]
    assert page.get_by_role("button", name="Play").count() == 1


def test_each_entry_is_each_place_where_there_are_channels(page: Page) -> None:
    page.evaluate("convbias.set({ bias: 'tap', channels: 2, at: [0, 0, 0] })")
    rows = page.locator("#answer-rows").inner_text()
    assert "Σ (Σ k·x + b)" in rows
    assert "4 of 9 places, of 2 channels each, are inside" in page.locator("#answer-here").inner_text()
    formula = page.locator("#formula").inner_text()
    assert (formula.count("+ 0.5)"), formula.count("·")) == (4, 8)
    assert page.locator(".way .formula").nth(2).inner_text() == "Σ (Σ k·x + b)"


BIASES = {
    "none": "B[0, 0, 3] = 0, as there is none",
    "tied": "B[0, 0, 3] = b = 0.5",
    "tap": "B[0, 0, 3] = n·b = 6·0.5 = 3, where n entries are inside",
    "input": "B[0, 0, 3] = b·Σ k = 0.5·0 = 0, summed over the entries inside",
    "c h": "B[0, 0, 3] = b[row 0]",
    "c w": "B[0, 0, 3] = b[column 3]",
    "rank:1": "B[0, 0, 3] = b + u·v[0, 3] = ",
    "grid:3": "B[0, 0, 3] = Σ share·point = ",
    "untied": "B[0, 0, 3] = b + map[0, 3] = ",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_bias_is_followed_to_its_numbers(calculator: Page, way: str) -> None:
    text, field = calculator.evaluate(
        """(way) => {
            location.hash = "#at=0+0+3&bias=" + encodeURIComponent(way);
            window.dispatchEvent(new Event("hashchange"));
            const text = document.getElementById("bias-formula").textContent;
            return [text, convbias.outputs(way).field[0][0][3]];
        }""",
        way,
    )
    assert text.startswith(BIASES[way])
    *steps, result = (step.split(", ")[0].replace("−", "-") for step in text.split(" = ")[1:])
    assert float(result) == pytest.approx(field, abs=5e-4)
    if way in ("tap", "input", "rank:1", "grid:3", "untied"):
        product = steps[-1].replace("·", "*")
        assert eval(product) == pytest.approx(field, abs=2e-3)


def test_small_numbers_and_the_amplitude_are_in_the_formula(page: Page) -> None:
    page.locator("#input input[data-y='3'][data-x='3']").fill("0.0004")
    page.get_by_label("filter 0, row 1, column 1", exact=True).fill("1000")
    assert "+ 1000·0.0004 +" in page.locator("#formula").inner_text()
    page.get_by_label("amplitude", exact=True).fill("-0.5")
    assert "+ 1000·(−0.5)·0.0004 +" in page.locator("#formula").inner_text()
    assert page.locator("#times").inner_text() == "times the amplitude, −0.5"
    # What rounding leaves of a sum of 0 is no number that anyone wrote.
    page.evaluate("convbias.set({ b: [0.1 + 0.2 - 0.3, 0], gain: 1 })")
    assert page.locator("#b-value").inner_text() == "0"


def test_a_screen_reader_gets_the_formula_and_every_product(page: Page) -> None:
    formula = page.get_by_label("The formula with its numbers")
    assert formula.get_attribute("tabindex") == "0"
    described = (formula.get_attribute("aria-describedby") or "").split()
    assert described == ["formula", "bias-formula"]
    assert page.locator("[aria-hidden=true] #formula, #formula[aria-hidden]").count() == 0
    page.get_by_role("button", name="in the corner").click()
    assert page.get_by_role("img", name="padding, not there").count() == 5
    products = page.get_by_role("grid", name="products")
    assert products.locator("[tabindex='0']").count() == 1
    products.locator("[tabindex='0']").focus()
    assert page.locator("#product").inner_text() == "in the padding: not there"
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.ariaLabel") == "1 times 0.5 is 0.5"
    assert page.locator("#product").inner_text() == "1 times 0.5 is 0.5"
    assert "relu of 1 is the output 1." in page.locator("#announce").inner_text()


def test_what_a_way_means_is_read_without_a_mouse(page: Page) -> None:
    radio = page.get_by_role("radio", name="each entry", exact=True)
    radio.focus()
    radio.press("Space")
    assert page.locator("#way-says").inner_text().startswith("each entry. Added to each entry of the window")
    described = (radio.get_attribute("aria-describedby") or "").split()
    assert [page.locator(f"#{name}").count() for name in described] == [1, 1]
    page.get_by_role("radio", name="input entries", exact=True).check(force=True)
    assert (
        "adds up to 0, such as edges, shows it at the border alone" in page.locator("#way-says").inner_text()
    )
    assert page.locator("main [title]:not(button)").count() == 0


def test_undo_comes_back_from_a_link(page: Page) -> None:
    page.get_by_label("input, row 0, column 0").fill("5")
    page.evaluate("location.hash = 'input=zeros&bias=tap'")
    page.wait_for_function("convbias.get().bias === 'tap'")
    page.get_by_role("button", name="Undo").click()
    assert page.evaluate("[convbias.get().bias, convbias.numbers().x[0][0][0]]") == ["tied", 5]


def test_a_bias_that_is_written_stays_through_its_link(page: Page) -> None:
    page.evaluate("convbias.set({ bias: 'untied' })")
    box = page.get_by_role("textbox", name="bias, row 0, column 0")
    for text in ("-1000000", "0.1"):
        box.fill(text)
        box.blur()
        page.evaluate("location.hash = convbias.fragment()")
        page.reload()
        assert page.locator("#message").inner_text() == ""
        box.focus()
        assert box.input_value() == text


def test_a_number_is_mended_in_its_middle_and_taken_back(page: Page) -> None:
    box = page.get_by_label("input, row 0, column 0")
    box.click()
    page.keyboard.type("15")
    page.keyboard.press("ArrowLeft")
    page.keyboard.type(".2")
    assert (box.input_value(), page.evaluate("convbias.numbers().x[0][0][0]")) == ("1.25", 1.25)
    page.keyboard.press("Escape")
    assert (box.input_value(), page.evaluate("convbias.numbers().x[0][0][0]")) == ("0", 0)
    page.keyboard.type("7")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.ariaLabel") == "input, row 1, column 0"
    assert page.evaluate("convbias.numbers().x[0][0][0]") == 7


def test_a_finger_finds_its_target(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    heights = page.evaluate(
        """() => [...document.querySelectorAll("select, button, input[type=range], .tabs input")]
            .map((e) => e.getBoundingClientRect().height)"""
    )
    assert min(heights) >= 24


DOCS = Path(__file__).resolve().parents[1] / "docs"
LESSONS = sorted(
    {
        unescape(link)
        for page in DOCS.glob("*.md")
        for link in re.findall(r'href="explain\.html#([^"]*)"', page.read_text("utf-8"))
    }
)


def test_the_links_of_the_docs_open_what_they_name(calculator: Page) -> None:
    assert len(LESSONS) >= 12
    for link in LESSONS:
        shown, said = calculator.evaluate(
            """(link) => {
                location.hash = link;
                window.dispatchEvent(new Event("hashchange"));
                return [Object.fromEntries(new URLSearchParams(convbias.fragment())), message.textContent];
            }""",
            link,
        )
        assert said == ""
        assert parse_qs(link) == {name: [shown[name]] for name in parse_qs(link)}


def test_the_docs_list_every_word_of_a_link(calculator: Page) -> None:
    table = (DOCS / "lessons.md").read_text("utf-8").split("## Links")[1].split("## For scripts")[0]
    words = set(re.findall(r"`([\w:+]+)`", table))
    assert set(state(calculator)) - {"own"} <= words
    for name in ("bias", "act", "input", "filter", "map"):
        for choice in calculator.evaluate(CHOICES_OF, name):
            spelled = choice.replace(" ", "+")
            assert spelled in words or re.fullmatch(r"digit\+[1-8]", spelled)
    scripts = (DOCS / "lessons.md").read_text("utf-8").split("```js")[1]
    assert set(calculator.evaluate("Object.keys(convbias)")) == set(re.findall(r"convbias\.(\w+)\(", scripts))


# What the list of that name, or the cards, can be.
CHOICES_OF = """(name) => [...document.querySelectorAll(`[data-choice=${name}] option, [name=${name}]`)]
    .map((e) => e.value).filter((value) => value !== "own")"""
