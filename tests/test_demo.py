"""`hcflow demo`: the headers that isolate the page, and what is wrong told in one line."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from hcflow_tf.support import cli


@pytest.fixture
def page(tmp_path):
    """A folder that looks built."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "models.json").write_text("[]")
    (tmp_path / "index.html").write_text("<title>page</title>")
    (tmp_path / "ort.mjs").write_text("export {}")
    (tmp_path / "ort.wasm").write_bytes(b"\0asm")
    return tmp_path


def test_serves_with_the_headers_for_threads(page):
    command = [sys.executable, "-m", "hcflow_tf.demo", "--folder", str(page), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = re.match(r"http://localhost:\d+/", process.stdout.readline()).group()
            for name, kind in (("", "text/html"), ("ort.mjs", "text/javascript"), ("ort.wasm", "application/wasm")):
                with urllib.request.urlopen(address + name, timeout=10) as answer:
                    assert answer.headers["Content-Type"] == kind
                    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                    assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            for nothing in ("../conftest.py", "%00"):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(address + nothing, timeout=10)
        finally:
            process.terminate()


def test_no_page_and_taken_port(page, tmp_path_factory, capsys):
    empty = tmp_path_factory.mktemp("empty")
    assert cli.main(["demo", "--folder", str(empty)]) == 2
    assert "run `make web`" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["demo", "--folder", str(page), "--port", str(taken.getsockname()[1])]) == 1
    error = capsys.readouterr().err
    assert "cannot listen on 127.0.0.1" in error
    assert error.count("\n") == 1
