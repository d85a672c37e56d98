"""Which files are written for which input, checked before any work."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

from hcflow_tf.images.formats import FORMATS, READ_SUFFIXES, REFUSED_SUFFIXES
from hcflow_tf.images.inputs import Input
from hcflow_tf.support.errors import UsageError
from hcflow_tf.support.files import check_targets, expand_user, is_file, is_folder, status

STANDARD_OUTPUT = "-"
SAME = "same"
"""--format: that of the input, where it is one that is written, else PNG."""


def plan_outputs(
    sources: Sequence[Input],
    output: str | os.PathLike,
    name_outputs: Callable[[pathlib.Path], list[pathlib.Path]],
    *,
    suffix: str = ".png",
    models: Iterable[str | os.PathLike] = (),
    overwrite: bool = False,
    skip_existing: bool = False,
) -> list[list[pathlib.Path]]:
    """The output files of each source, checked before any work; none for a source that is to be skipped.

    In a folder an input keeps its name and subfolders. Where several inputs would get one name (also where only upper and
    lower case or the composition of accents tell them apart), the second gets name_2, the third name_3.

    Args:
      sources: inputs.
      output: a file name with an image suffix (for one source), else a folder, made where it is missing.
      name_outputs: from the plain output path of a source to all the files made from it.
      suffix: of the files in a folder; "same" for that of the source.
      models: files that are read, too.
      overwrite: whether files that exist may be replaced.
      skip_existing: whether a source all of whose outputs exist is skipped.

    Raises:
      UsageError: several sources for one output file, an unknown image suffix, an output that is an input, or one that
        exists.
    """
    if not str(output):
        raise UsageError("-o: the name is empty")
    output = expand_user(output)
    into_folder = is_folder(output) or output.suffix.lower() not in FORMATS
    if into_folder and not is_folder(output):
        if status(output):
            raise UsageError(f"-o {output}: is a file; give a folder or a file name ending in {', '.join(FORMATS)}")
        if output.suffix.lower() in (*READ_SUFFIXES, *REFUSED_SUFFIXES):
            raise UsageError(f"-o {output}: {output.suffix} files are not written; use one of {', '.join(FORMATS)}")
    if not into_folder and len(sources) > 1:
        raise UsageError(f"-o {output}: one file cannot hold {len(sources)} images; give a folder")
    taken: set[str] = set()
    plans: list[list[pathlib.Path]] = []
    for source in sources:
        number = 1
        plan: list[pathlib.Path] = []
        while not plan or any(_key(target) in taken for target in plan):
            place = source.place if number == 1 else source.place.with_name(f"{source.place.name}_{number}")
            own = source.path.suffix.lower()
            ending = (own if own in FORMATS else ".png") if suffix == SAME else suffix
            plan = name_outputs(output / place.with_name(place.name + ending) if into_folder else output)
            number += 1
        taken.update(map(_key, plan))
        plans.append([] if skip_existing and all(map(is_file, plan)) else plan)
    replaced = overwrite or skip_existing  # what is only half there is made anew
    check_targets(
        (target for plan in plans for target in plan),
        inputs=[*(source.path for source in sources), *models],
        overwrite=replaced,
    )
    return plans


@contextlib.contextmanager
def standard_output(output: str, suffix: str) -> Iterator[str]:
    """A file whose content goes to standard output in the end, if `output` is "-"; else `output` itself.

    Raises:
      UsageError: standard output is a terminal.
    """
    if output != STANDARD_OUTPUT:
        yield output
        return
    if sys.stdout.isatty():
        raise UsageError("-o -: standard output is a terminal; redirect it, or give a file name")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"standard output{'.png' if suffix == SAME else suffix}"
        yield str(path)
        if path.is_file():
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _key(path: pathlib.Path) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", str(path).casefold())
