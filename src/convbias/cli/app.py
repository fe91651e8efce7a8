"""The commands by their names."""

from __future__ import annotations

from typing import Annotated

from .. import __version__
from ..errors import extra
from . import doctor, explain, fold, study, verify

with extra("study"):
    import typer

app = typer.Typer(
    name="convbias",
    help="The bias of a convolution: understand it, choose it, ship it.",
    epilog="Example: convbias study --data mnist.npz --tying untied --tying rank:1",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(epilog=explain.EXAMPLES)(explain.explain)
app.command(epilog=study.EXAMPLES)(study.study)
app.command(epilog=fold.EXAMPLES)(fold.fold)
app.command(epilog=verify.EXAMPLES)(verify.verify)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)


def _print_version(asked: bool) -> None:
    if asked:
        # At once: a reader who is gone is found while the command runs, which ends quietly then.
        print(f"convbias {__version__}", flush=True)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The bias of a convolution: choose it by what it is worth on your data."""
