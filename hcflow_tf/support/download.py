"""Downloads that resume, are checked, and never leave half a file under the final name."""

from __future__ import annotations

import hashlib
import http.client
import os
import pathlib
import urllib.error
import urllib.request

from tqdm import tqdm

from hcflow_tf import __version__
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import write_atomically

MIRROR = "HCFLOW_MIRROR"
"""Environment variable: a base URL from which every file is fetched by its name, instead of from its own address."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as lost."""
ATTEMPTS = 3
CHUNK = 1 << 20


def fetch(url: str, path: str | os.PathLike, *, sha256: str | None = None, show_progress: bool = True) -> pathlib.Path:
    """Downloads `url` to `path` unless it is there, and returns the path.

    What has arrived is kept in `path`.part, and the next call goes on from there. The file's SHA-256 is written to
    `path`.sha256 on the first download and compared whenever the file is used again.

    Args:
      url: http or https address; see `MIRROR`.
      path: where the file goes.
      sha256: the expected checksum, in hexadecimal, where it is known.
      show_progress: show a progress bar on stderr, if that is a terminal.

    Raises:
      HCFlowError: no network, no such file, connection lost, wrong checksum, disk full.
    """
    path = pathlib.Path(path).expanduser()
    record = path.with_name(f"{path.name}.sha256")
    if path.is_file():
        _check_known(path, record, sha256)
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HCFlowError(f"cannot write {path}: {error.strerror}") from error
    _download(_address(url), part, show_progress)
    actual = digest(part)
    if sha256 and actual != sha256.lower():
        part.unlink()
        raise HCFlowError(f"{url}: the file has SHA-256 {actual}, expected {sha256.lower()}; nothing was kept")
    write_atomically(record, f"{actual}  {path.name}\n".encode())
    os.replace(part, path)
    return path


def digest(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_known(path: pathlib.Path, record: pathlib.Path, sha256: str | None) -> None:
    expected = sha256 or (record.read_text(encoding="ascii").split()[0] if record.is_file() else None)
    if expected and digest(path) != expected.lower():
        raise HCFlowError(f"{path} does not have the SHA-256 {expected.lower()}: delete it to download it again")


def _address(url: str) -> str:
    mirror = os.environ.get(MIRROR)
    return f"{mirror.rstrip('/')}/{url.rsplit('/', 1)[1]}" if mirror else url


def _download(url: str, part: pathlib.Path, show_progress: bool) -> None:
    """Fetches what `part` lacks; a connection that breaks is tried again as long as it brings something."""
    reason: object = "the connection ended early"
    for _ in range(ATTEMPTS):
        before = _size(part)
        try:
            if _fetch_rest(url, part, before, show_progress):
                return
        except urllib.error.HTTPError as error:
            raise HCFlowError(f"cannot download {url}: HTTP {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        if _size(part) == before:
            break
    kept = f" ({_size(part) / 1e6:.1f} MB are kept: run it again to go on from there)" if _size(part) else ""
    raise HCFlowError(f"cannot download {url}: {reason}{kept}")


def _fetch_rest(url: str, part: pathlib.Path, done: int, show_progress: bool) -> bool:
    """One connection; returns whether `part` is complete. Raises OSError if the network fails."""
    headers = {"User-Agent": f"hcflow_tf/{__version__}"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        if error.headers.get("Content-Range") == f"bytes */{done}":
            return True
        part.unlink()  # not a part of this file
        return _fetch_rest(url, part, 0, show_progress)
    with response:
        if not (response.headers.get("Content-Range") or "").startswith(f"bytes {done}-"):
            done = 0  # the server starts again
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        quiet = None if show_progress else True
        with tqdm(total=total, initial=done, desc=part.stem, unit="B", unit_scale=True, disable=quiet) as bar:
            while chunk := response.read(CHUNK):
                _append(part, chunk, done)
                done += len(chunk)
                bar.update(len(chunk))
    return total is None or done == total


def _append(part: pathlib.Path, chunk: bytes, position: int) -> None:
    try:
        with part.open("ab" if position else "wb") as file:
            file.write(chunk)
    except OSError as error:
        raise HCFlowError(f"cannot write {part}: {error.strerror or error}") from error


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0
