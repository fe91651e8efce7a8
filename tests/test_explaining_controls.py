"""Every control of the page does its work: by pointer, by keys and by touch."""

from __future__ import annotations

import pytest
import torch
from playwright.sync_api import BrowserContext, Page

from explain_page import CLOSE, cell_of, run_program, state


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
    assert page.locator("#formula").inner_text().startswith("y[0, 0, 0] =")
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


def test_undo_comes_back_from_a_link(page: Page) -> None:
    page.get_by_label("input, row 0, column 0").fill("5")
    page.evaluate("location.hash = 'input=zeros&bias=tap'")
    page.wait_for_function("convbias.get().bias === 'tap'")
    page.get_by_role("button", name="Undo").click()
    assert page.evaluate("[convbias.get().bias, convbias.numbers().x[0][0][0]]") == ["tied", 5]


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
