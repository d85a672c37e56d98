"""Files: written so that a reader never sees half of one, never over one that is there, read only if they are files."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator

from hcflow_tf.support.errors import HCFlowError, UsageError

_LONGEST_PREFIX = 40
"""Characters of a temporary file's name that are those of the file: a name may be as long as the system allows."""
_UMASK = threading.Lock()
"""The process's umask can only be read by setting it."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path` that becomes `path` if the block succeeds, else vanishes.

    Raises:
      HCFlowError: the file cannot be written (disk full, no permission); `path` is as it was.
    """
    path = pathlib.Path(path)
    temporary = None
    try:
        with _UMASK:
            path.parent.mkdir(parents=True, exist_ok=True)
            umask = os.umask(0)
            os.umask(umask)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:_LONGEST_PREFIX]}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = pathlib.Path(name)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # else a power cut could leave the new name with no content
        os.replace(temporary, path)
    except OSError as error:
        raise HCFlowError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes `content` beside `path`, then renames; see `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def expand_user(path: str | os.PathLike) -> pathlib.Path:
    """The path with the home directory in place of a leading `~`; a file may well be called ~draft.png."""
    path = pathlib.Path(path)
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user
        return path


def cache_folder() -> pathlib.Path:
    """Where what can be made or fetched again is kept: hcflow_tf in XDG_CACHE_HOME, by default ~/.cache."""
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else expand_user("~/.cache")) / "hcflow_tf"


def read_file(path: str | os.PathLike, *, limit: int) -> bytes:
    """The content of a file.

    Raises:
      OSError: missing, unreadable, a folder, a pipe or a device (which may block, or never end), or above `limit` bytes.
    """
    check_regular(path)
    path = pathlib.Path(path)
    size = path.stat().st_size
    if size > limit:
        raise OSError(errno.EFBIG, f"has {size:,} bytes, at most {limit:,} are expected")
    return path.read_bytes()


def check_regular(path: str | os.PathLike) -> None:
    """Checks that opening the path cannot block.

    Raises:
      OSError: there is nothing, or it is neither a file nor a folder.
    """
    mode = pathlib.Path(path).stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "is a pipe, a socket or a device, not a file")


def check_targets(
    targets: Iterable[str | os.PathLike], *, inputs: Iterable[str | os.PathLike], overwrite: bool, option: str = "-o"
) -> None:
    """Checks, before any work, that writing these files destroys nothing.

    Args:
      targets: files that will be written.
      inputs: files that are read; never overwritten, whatever they are called (links).
      overwrite: whether files that exist may be replaced.
      option: that named the targets, for the message.

    Raises:
      UsageError: a target is an input, a folder, in what is no folder, or exists already; names the first.
    """
    read, there = {_identity(status(path)) for path in inputs}, []
    for target in targets:
        found = status(target)
        if found and _identity(found) in read:
            raise UsageError(f"{target} is an input and would be overwritten; choose another {option}")
        for parent in pathlib.Path(target).parents:
            if is_folder(parent):
                break
            if status(parent):
                raise UsageError(f"{target} cannot be written: {parent} is no folder; choose another {option}")
        if is_folder(target):
            raise UsageError(f"{target} is a folder and cannot be written as a file; choose another {option}")
        if found or os.path.lexists(target):  # or a link to nowhere
            there.append(target)
    if there and not overwrite:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise UsageError(f"{there[0]}{more} exists already; choose another {option}, or replace it with --overwrite")


def status(path: str | os.PathLike) -> os.stat_result | None:
    """What the system knows of a file or folder; None if it cannot be reached: missing, a link in a circle, too long a name."""
    try:
        return pathlib.Path(path).stat()
    except (OSError, ValueError):
        return None


def is_folder(path: str | os.PathLike) -> bool:
    """Whether a folder can be reached there; unlike `Path.is_dir`, False for every path that cannot be."""
    found = status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def is_file(path: str | os.PathLike) -> bool:
    """Whether a regular file can be reached there; False for pipes and devices, and for every path that cannot be."""
    found = status(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def why_unreachable(path: str | os.PathLike, missing: str = "no such file or folder") -> str:
    """The reason, in a few words, where `status` is None; `missing` is the one for a path that leads to nothing."""
    path = pathlib.Path(path)
    try:
        path.stat()
    except FileNotFoundError:
        return "a link to a file that does not exist" if path.is_symlink() else missing
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:  # the character NUL
        pass
    return missing


def _identity(found: os.stat_result | None) -> tuple[int, int] | None:
    """Device and number: equal for all names of one file."""
    return found and (found.st_dev, found.st_ino)


def natural_order(path: pathlib.Path) -> tuple:
    """A sort key by name: 2.png before 10.png."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if part.isdecimal() and part.isascii() else part for part in parts], path.name


def encoder_path(path: pathlib.Path) -> pathlib.Path:
    """Where the encoder of an exported rescaling model lies, whose decoder is path: NAME_encoder.EXT beside NAME.EXT."""
    return path.with_name(f"{path.stem}_encoder{path.suffix}")
