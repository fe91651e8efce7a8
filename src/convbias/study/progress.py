"""A bar on stderr, for people only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

from ..errors import extra

with extra("study"):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[str, int], None]


@contextmanager
def bar(
    total: int, what: str = "epochs", *, each: int | None = None, quiet: bool = False
) -> Generator[Advance]:
    """Yield ``advance(now, how_many)``, which moves the bar; silent where stderr is no terminal.

    ``each`` is how many of the total a network takes: the finished ones are told as well.
    """
    console = Console(stderr=True)
    columns = (
        *(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()),
        *(TextColumn(f"{what},"), TimeRemainingColumn(), TextColumn("left")),
    )
    quiet = quiet or not console.is_terminal
    done: Counter[str] = Counter()

    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task("", total=total)

        def advance(now: str, by: int) -> None:
            if each is not None:
                done[now] += by
                finished = sum(count >= each for count in done.values())
                now = f"{finished} of {total // each} networks; {now}"
            progress.update(task, advance=by, description=now)

        yield advance
