"""The page, in a real browser: it computes what the library does, and its links and docs restore it."""

from __future__ import annotations

import itertools
import json
import re
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import BrowserContext, Page
from torch import Tensor

import convbias
from convbias import Geometry, parse
from convbias.errors import OutputError
from convbias.explaining import page as html
from convbias.explaining import write
from convbias.geometry import Site
from explain_page import ACTIVATIONS, CLOSE, WAYS, run_program, state


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


# What the list of that name, or the cards, can be.
CHOICES_OF = """(name) => [...document.querySelectorAll(`[data-choice=${name}] option, [name=${name}]`)]
    .map((e) => e.value).filter((value) => value !== "own")"""


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
