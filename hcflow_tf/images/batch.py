"""What the commands over many images share: finding inputs, naming outputs, going on after a bad file, progress."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from hcflow_tf.data.pairs import find_images
from hcflow_tf.images.images import FORMATS, ImageError
from hcflow_tf.support.errors import HCFlowError, UsageError, complain, one_line
from hcflow_tf.support.files import check_targets, expand_user, is_folder, status, why_unreachable

Item = TypeVar("Item")


class Batch:
    """Runs over items, names the bad ones on stderr and goes on; `exit_code` is 1 if there was one."""

    def __init__(self, command: str):
        """Args: command, its name, for the messages."""
        self._command = command
        self.failed: list[str] = []

    @property
    def exit_code(self) -> int:
        """0, or 1 after a bad file."""
        return 1 if self.failed else 0

    def complain(self, error: Exception) -> None:
        """Names a bad file."""
        self.failed.append(str(error))
        complain(f"hcflow {self._command}", error)

    def run(self, items: Sequence[Item], name: Callable[[Item], str], work: Callable[[Item], str]) -> None:
        """Calls work(item) for all items; it returns a note for the progress line.

        An `ImageError` is that item's own, and so is an image too large for the memory; every other error ends the batch.
        """
        begin = time.monotonic()
        for number, item in enumerate(items, start=1):
            try:
                note = work(item)
            except ImageError as error:
                self.complain(error)
                continue
            except MemoryError:
                self.complain(ImageError(f"{name(item)}: not enough memory for this image"))
                continue
            left = (time.monotonic() - begin) / number * (len(items) - number)
            eta = f", {_duration(left)} left" if number < len(items) else ""
            passed = _duration(time.monotonic() - begin)
            print(f"[{number}/{len(items)}] {one_line(name(item))}: {note} ({passed}{eta})", file=sys.stderr)


def find_inputs(inputs: Iterable[str | os.PathLike], batch: Batch) -> list[pathlib.Path]:
    """The image files that INPUT arguments name, folders expanded; what is missing or empty is complained about."""
    files: dict[pathlib.Path, None] = {}
    for entry in inputs:
        path = expand_user(entry)
        try:
            if not str(entry):
                raise HCFlowError("an input without a name")
            if status(path) is None:
                raise HCFlowError(f"{path}: {why_unreachable(path)}")
            files.update(dict.fromkeys(find_images(path) if is_folder(path) else [path]))
        except HCFlowError as error:
            batch.complain(error)
    return list(files)


def plan_outputs(
    sources: Sequence[pathlib.Path],
    output: str | os.PathLike,
    name_outputs: Callable[[pathlib.Path], list[pathlib.Path]],
    *,
    models: Iterable[str | os.PathLike] = (),
    overwrite: bool = False,
) -> list[list[pathlib.Path]]:
    """The output files of each source, checked before any work.

    Args:
      sources: input files.
      output: a file name with an image suffix (for one source), else a folder, made where it is missing.
      name_outputs: from the plain output path of a source to all the files made from it.
      models: files that are read, too.
      overwrite: whether files that exist may be replaced.

    Raises:
      UsageError: several sources for one output file, two sources with the same output, an output that is an input, or
        one that exists.
    """
    if not str(output):
        raise UsageError("-o: the name is empty")
    output = expand_user(output)
    into_folder = is_folder(output) or output.suffix.lower() not in FORMATS
    if into_folder and status(output) and not is_folder(output):
        raise UsageError(f"-o {output}: is a file; give a folder or a file name ending in {', '.join(FORMATS)}")
    if not into_folder and len(sources) > 1:
        raise UsageError(f"-o {output}: one file cannot hold {len(sources)} images; give a folder")
    taken: dict[pathlib.Path, pathlib.Path] = {}
    plans = []
    for source in sources:
        plan = name_outputs(output / f"{source.stem}.png" if into_folder else output)
        for target in plan:
            if target in taken:
                raise UsageError(f"{taken[target]} and {source} would both be written to {target}; rename one or split them")
            taken[target] = source
        plans.append(plan)
    check_targets(taken, inputs=[*sources, *models], overwrite=overwrite)
    return plans


def add_overwrite_argument(parser: argparse.ArgumentParser, *aliases: str) -> None:
    """--overwrite, the same in all commands."""
    parser.add_argument("--overwrite", *aliases, action="store_true", help="replace files that exist (never an input)")


def add_tile_argument(parser: argparse.ArgumentParser) -> None:
    """--tile auto|N|0, the same in all commands."""
    parser.add_argument(
        "--tile",
        type=_tile,
        default=None,
        metavar="auto|N|0",
        help="side of the tiles in LR pixels; 0: the whole image at once; auto (default): as memory allows",
    )


def add_scale_argument(parser: argparse.ArgumentParser, of: str = "--model bicubic") -> None:
    """--scale, where no model says it: for the baseline."""
    parser.add_argument("--scale", type=int, choices=(2, 4, 8, 16), help=f"of {of} (default 4)")


def _tile(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected auto, 0 or a number of pixels, got {text!r}")
    return int(text)


def positive_int(text: str) -> int:
    """An argparse type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def temperature(text: str) -> float:
    """An argparse type: tau, finite and not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0 up, got {text!r}")
    return value


def seed(text: str) -> int:
    """An argparse type: an integer of at most 31 bits, so that seed + i fits, too."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**31 - 1}, got {text!r}")
    return int(text)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
