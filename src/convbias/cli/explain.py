"""``convbias explain``: where the bias goes, number by number, in a browser."""

from __future__ import annotations

import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated

from ..errors import OutputError, extra
from ..explaining import page, write

with extra("study"):
    import typer

EXAMPLES = """Examples:

convbias explain

convbias explain -o lesson.html --no-open

convbias explain --serve --port 8080
"""
HERE = "127.0.0.1"
NAME = "convbias-explain.html"


def explain(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"The file to write; {NAME} where none is given.")
    ] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page to this machine, and write no file.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to serve; 0 for any free one.")] = 8000,
) -> None:
    """Where does the bias of a convolution go?

    Writes a page on which every number of a convolution can be followed,
    each way of adding a bias beside the others, and opens it. It is one file
    that needs no network.
    """
    if serve:
        if output is not None:
            raise OutputError(output, "is not written by --serve; leave out one of the two")
        _serve(port, show)
        return
    output = output or Path(NAME)
    write(output)
    print(output)
    if show:
        webbrowser.open(output.resolve().as_uri())


def _serve(port: int, show: bool) -> None:
    text = page().encode()

    class Page(BaseHTTPRequestHandler):
        """The page, under whatever name it is asked for."""

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(text)

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of each request."""

    try:
        server = ThreadingHTTPServer((HERE, port), Page)
    except OSError as error:
        raise OutputError(
            f"{HERE}:{port}", f"cannot be served at ({error.strerror}); choose another --port"
        ) from error
    address = f"http://{HERE}:{server.server_address[1]}/"
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    if show:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
