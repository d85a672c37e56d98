"""Which pictures INPUT arguments name: files, folders, subfolders, standard input."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator

from hcflow_tf.images.batch import Batch
from hcflow_tf.images.formats import READ_SUFFIXES, REFUSED_SUFFIXES
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import expand_user, is_folder, natural_order, status, why_unreachable

STANDARD_INPUT = "-"
_SYSTEM_FOLDERS = ("@eadir", "__macosx", "$recycle.bin", "system volume information")
"""In lower case: what systems and network stores leave behind."""


@dataclasses.dataclass(frozen=True)
class Input:
    """One picture to work on."""

    path: pathlib.Path
    place: pathlib.PurePath
    """Its place in the output folder, without suffix: the name, below the subfolders it was found in."""

    @classmethod
    def of(cls, path: pathlib.Path, folder: pathlib.Path | None = None) -> Input:
        """Args: folder, below which subfolders count."""
        return cls(path, path.relative_to(folder).with_name(path.stem) if folder else pathlib.PurePath(path.stem))


def find_inputs(
    inputs: Iterable[str | os.PathLike],
    batch: Batch,
    *,
    recursive: bool = False,
    output: str | os.PathLike = "",
    standard_input: pathlib.Path | None = None,
) -> list[Input]:
    """The pictures that INPUT arguments name, folders expanded; what is missing or empty is complained about.

    Of a folder come the files that look like pictures by their suffix, those of a kind that is not read, too, so that
    they are named. Hidden and system files are passed over; so are subfolders, said in one line, unless `recursive`.

    Args:
      inputs: files, folders, "-" for standard input.
      batch: is told what is wrong.
      recursive: whether subfolders are taken; links to folders are not followed.
      output: a folder that is not searched.
      standard_input: the file in which its content is.
    """
    found: dict[pathlib.Path, Input] = {}
    for entry in inputs:
        if str(entry) == STANDARD_INPUT and standard_input:
            found[standard_input] = Input.of(standard_input)
            batch.show_as(standard_input, standard_input.name)
            continue
        path = expand_user(entry)
        try:
            if not str(entry):
                raise HCFlowError("an input without a name")
            if status(path) is None:
                raise HCFlowError(f"{path}: {why_unreachable(path)}")
            files = _in_folder(path, batch, recursive, status(output)) if is_folder(path) else [Input.of(path)]
        except HCFlowError as error:
            batch.complain(error)
            continue
        for item in files:
            found.setdefault(item.path, item)
    return list(found.values())


@contextlib.contextmanager
def standard_input(inputs: Iterable[str | os.PathLike]) -> Iterator[pathlib.Path | None]:
    """What standard input holds, as a file called "standard input"; None if no input is "-"."""
    if STANDARD_INPUT not in map(str, inputs):
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "standard input"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def _in_folder(folder: pathlib.Path, batch: Batch, recursive: bool, output: os.stat_result | None) -> list[Input]:
    found, pending, passed_over = [], [folder], []
    while pending:
        current = pending.pop(0)
        try:
            entries = sorted((path for path in current.iterdir() if not path.name.startswith(".")), key=natural_order)
        except OSError as error:  # it may not be read, or has just vanished
            raise HCFlowError(f"{current}: {error.strerror}") from error
        subfolders = []
        for path in entries:
            if is_folder(path):
                there = status(path)
                is_output = output is not None and there is not None and os.path.samestat(there, output)
                if path.name.casefold() not in _SYSTEM_FOLDERS and not is_output and not path.is_symlink():
                    subfolders.append(path)
            elif path.suffix.lower() in (*READ_SUFFIXES, *REFUSED_SUFFIXES):
                found.append(Input.of(path, folder))
        if recursive:
            pending = subfolders + pending
        else:
            passed_over = subfolders
    if not found:
        more = f", but {_several(len(passed_over))}: --recursive takes them" if passed_over else ""
        raise HCFlowError(f"{folder}: no images in this folder (looked for {', '.join(READ_SUFFIXES)}){more}")
    if passed_over:
        names = ", ".join(path.name for path in passed_over[:3]) + (", ..." if len(passed_over) > 3 else "")
        batch.remark(f"{folder}: {_several(len(passed_over))} passed over ({names}); --recursive takes them")
    return found


def _several(count: int) -> str:
    return f"{count} subfolder{'s' if count > 1 else ''}"
