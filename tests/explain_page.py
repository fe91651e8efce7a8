"""What the tests of the page of ``convbias explain`` share; its fixtures are in conftest.py."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page
from torch import Tensor

WAYS = ("none", "tied", "tap", "input", "c h", "c w", "rank:1", "grid:3", "untied")


ACTIVATIONS = ("none", "relu", "leaky_relu", "silu", "sigmoid", "tanh")


CLOSE = 1e-12


def state(page: Page) -> dict[str, Any]:
    return page.evaluate("convbias.get()")


def cell_of(page: Page, grid: str, y: int, x: int) -> Any:
    return page.locator(f"#{grid} [data-y='{y}'][data-x='{x}']").first


def run_program(text: str) -> Tensor:
    names: dict[str, Any] = {"print": lambda *_: None}
    exec(compile(text, "the page's program", "exec"), names)
    return names["y"][0]
