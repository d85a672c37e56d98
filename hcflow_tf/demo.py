"""Serves the built web page (`make web`) on this computer, with the headers that its threads need, until Ctrl-C.

The page enlarges pictures in the browser; this server only hands out its files.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import pathlib
import sys

from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError, UsageError

PAGE = pathlib.Path(__file__).parents[1] / "web" / "dist"
"""Where `make web` builds it."""

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""The first two isolate the page: without them a browser gives WebAssembly no shared memory, so one thread only."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--folder", type=pathlib.Path, default=PAGE, help="the built page (default web/dist)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this computer only)")
    parser.add_argument("--port", type=_port, default=8000, help="0 takes any free one (default 8000)")


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


class PageHandler(http.server.SimpleHTTPRequestHandler):
    """Files of one folder, with `HEADERS`; quiet."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
        ".json": "application/json",
    }

    def translate_path(self, path: str) -> str:
        """The file of a request; of one that no file can have, a file that is not there."""
        return super().translate_path(path.replace("%00", "%2500"))

    def end_headers(self) -> None:
        """Adds `HEADERS`."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def server(folder: pathlib.Path, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """A server of the page, listening but not yet serving.

    Raises:
      UsageError: there is no built page.
      HCFlowError: the address cannot be had.
    """
    for needed in ("index.html", "models/models.json"):
        if not (folder / needed).is_file():
            raise UsageError(f"no built page at {folder} ({needed} is missing): run `make web`, or give --folder")
    try:
        return http.server.ThreadingHTTPServer((host, port), functools.partial(PageHandler, directory=str(folder)))
    except OSError as error:
        raise HCFlowError(f"cannot listen on {host}:{port}: {error.strerror or error}; try another --port") from error


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    with server(args.folder, args.host, args.port) as page:
        host = "localhost" if args.host == "127.0.0.1" else args.host
        print(f"http://{host}:{page.server_port}/  (Ctrl-C stops it)")
        sys.stdout.flush()
        try:
            page.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    raise SystemExit(cli.execute("demo"))
