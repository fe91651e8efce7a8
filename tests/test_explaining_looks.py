"""What the page shows and says is read: at every width, in both themes, and aloud."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page

from convbias import Geometry, parse
from convbias.geometry import Site
from explain_page import WAYS, state


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


def test_each_entry_is_each_place_where_there_are_channels(page: Page) -> None:
    page.evaluate("convbias.set({ bias: 'tap', channels: 2, at: [0, 0, 0] })")
    rows = page.locator("#answer-rows").inner_text()
    assert "Σ (Σ k·x + b)" in rows
    assert "4 of 9 places, of 2 channels each, are inside" in page.locator("#answer-here").inner_text()
    formula = page.locator("#formula").inner_text()
    assert (formula.count("+ 0.5)"), formula.count("·")) == (4, 8)
    assert page.locator(".way .formula").nth(2).inner_text() == "Σ (Σ k·x + b)"


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
    page.get_by_role("button", name="in the middle").click()
    assert page.locator("#product").inner_text() == "Point at one to read it."


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
    # On a phone it stays in view beside the last of the cards.
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator(".way").last.click()
    assert page.locator("#way-says").inner_text().startswith("per place")
    box = page.locator("#way-says").bounding_box()
    assert box
    assert 0 <= box["y"] < 740


def test_a_finger_finds_its_target(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    heights = page.evaluate(
        """() => [...document.querySelectorAll("select, button, input[type=range], .tabs input")]
            .map((e) => e.getBoundingClientRect().height)"""
    )
    assert min(heights) >= 24
