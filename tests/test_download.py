"""Downloads against a local server: resume, checksums, refusals."""

from __future__ import annotations

import hashlib
import http.server
import pathlib
import sys
import threading

import pytest

from hcflow_tf.support import download
from hcflow_tf.support.errors import HCFlowError

CONTENT = bytes(range(256)) * 2000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT as /file; cuts connections and ignores ranges when told to."""

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        if self.path.rsplit("/", 1)[1] != "file":
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if server.supports_range else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = server.cuts.pop(0) if server.cuts else len(CONTENT)
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.ranges, server.cuts, server.supports_range = [], [], True
        server.url = f"http://127.0.0.1:{server.server_address[1]}/file"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 10_000)
    monkeypatch.delenv(download.MIRROR, raising=False)
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)


def part_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.part")


@pytest.mark.parametrize("terminal", [True, False])
def test_whole_file_with_progress_and_record(terminal, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    path = download.fetch(server.url, tmp_path / "new" / "w.pth")
    assert path.read_bytes() == CONTENT
    shown = capsys.readouterr().err
    assert ("w.pth: 100%|" in shown) if terminal else shown == ""
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["w.pth", "w.pth.sha256"]
    assert path.with_name("w.pth.sha256").read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  w.pth\n"


def test_a_file_that_is_there_is_used_and_checked(server, tmp_path):
    path = download.fetch(server.url, tmp_path / "w.pth", show_progress=False)
    download.fetch(server.url, path, show_progress=False)
    assert len(server.ranges) == 1
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(HCFlowError, match=r"w\.pth does not have the SHA-256 .+ delete it"):
        download.fetch(server.url, path, show_progress=False)


def test_a_cut_connection_is_resumed_in_the_same_call(server, tmp_path):
    server.cuts = [100_000, 300_000]
    path = download.fetch(server.url, tmp_path / "w.pth", show_progress=False)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=300000-"]


def test_a_lost_connection_is_resumed_by_the_next_call(server, tmp_path):
    server.cuts = [100_000, 100_000]  # the second brings nothing
    path = tmp_path / "w.pth"
    with pytest.raises(HCFlowError, match=r"cannot download .+ early \(0\.1 MB are kept: run it again"):
        download.fetch(server.url, path, show_progress=False)
    assert not path.exists()
    assert part_of(path).read_bytes() == CONTENT[:100_000]
    assert download.fetch(server.url, path, show_progress=False).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=100000-"
    assert not part_of(path).exists()


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.supports_range = False
    part_of(tmp_path / "w.pth").write_bytes(b"x" * 100)
    assert download.fetch(server.url, tmp_path / "w.pth", show_progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"x"], ids=["complete", "too long"])
def test_a_part_that_has_no_rest(server, tmp_path, part):
    part_of(tmp_path / "w.pth").write_bytes(part)
    assert download.fetch(server.url, tmp_path / "w.pth", show_progress=False).read_bytes() == CONTENT


def test_wrong_checksum_keeps_nothing(server, tmp_path):
    with pytest.raises(HCFlowError, match="expected 00"):
        download.fetch(server.url, tmp_path / "w.pth", sha256="00", show_progress=False)
    assert list(tmp_path.iterdir()) == []
    good = hashlib.sha256(CONTENT).hexdigest().upper()
    assert download.fetch(server.url, tmp_path / "w.pth", sha256=good, show_progress=False).is_file()
    with pytest.raises(HCFlowError, match="does not have the SHA-256 11"):
        download.fetch(server.url, tmp_path / "w.pth", sha256="11", show_progress=False)


def test_not_found(server, tmp_path):
    with pytest.raises(HCFlowError, match=r"cannot download .+/nothing: HTTP 404 Not Found$"):
        download.fetch(f"{server.url[:-4]}nothing", tmp_path / "w.pth", show_progress=False)
    assert list(tmp_path.iterdir()) == []


def test_no_network(tmp_path):
    with pytest.raises(HCFlowError, match=r"cannot download http://127\.0\.0\.1:1/file: .*refused") as caught:
        download.fetch("http://127.0.0.1:1/file", tmp_path / "w.pth", show_progress=False)
    assert "\n" not in str(caught.value)


def test_disk_full(server, tmp_path):
    if not pathlib.Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    part_of(tmp_path / "w.pth").symlink_to("/dev/full")
    with pytest.raises(HCFlowError, match=r"cannot write .+w\.pth\.part: No space left on device"):
        download.fetch(server.url, tmp_path / "w.pth", show_progress=False)
    assert not (tmp_path / "w.pth").exists()


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HCFlowError, match="cannot write"):
        download.fetch(server.url, tmp_path / "file" / "w.pth", show_progress=False)


def test_mirror_stands_in_for_every_address(server, tmp_path, monkeypatch):
    monkeypatch.setenv(download.MIRROR, server.url[:-4])
    assert download.fetch("https://example.invalid/a/b/file", tmp_path / "w", show_progress=False).read_bytes() == CONTENT
