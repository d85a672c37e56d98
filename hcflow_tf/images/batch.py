"""What the commands over many images share: going on after a bad file, progress, summary, options."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from hcflow_tf.images.formats import FORMATS, ImageError
from hcflow_tf.support.errors import HCFlowError, UsageError, complain, one_line

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Done:
    """What became of one item."""

    note: str
    """For the progress line."""
    outputs: Sequence[pathlib.Path] = ()
    size: tuple[int, int] | None = None
    """Width and height of the result; of what is skipped, none."""
    skipped: bool = False


class Batch:
    """Runs over items, names the bad ones on stderr and goes on; `exit_code` is 1 if there was one."""

    def __init__(self, command: str, *, as_json: bool = False, item_errors: type[HCFlowError] = ImageError):
        """Begins a batch.

        Args:
          command: its name, for the messages.
          as_json: whether a line for programs goes to stdout for each item.
          item_errors: errors that concern one item: the batch goes on. Whatever this is, wrong usage and outputs that
            cannot be written (a full disk) end it.
        """
        self._command, self._as_json, self._item_errors = command, as_json, item_errors
        self.failed: list[str] = []

    @property
    def exit_code(self) -> int:
        """0, or 1 after a bad file."""
        return 1 if self.failed else 0

    def complain(self, error: Exception) -> None:
        """Names a bad file."""
        self.failed.append(str(error))
        complain(f"hcflow {self._command}", error)

    def remark(self, text: str) -> None:
        """Says what is worth knowing, and is no error."""
        complain(f"hcflow {self._command}: note", text)

    def run(self, items: Sequence[Item], name: Callable[[Item], str], work: Callable[[Item], Done | str]) -> None:
        """Calls work(item) for all items; it returns what was done, or a note for the progress line.

        An image too large for the memory is that item's own error, too.
        """
        begin, skipped, failed_before, seconds, megapixels = time.monotonic(), 0, len(self.failed), 0.0, 0.0
        for number, item in enumerate(items, start=1):
            started = time.monotonic()
            try:
                done = work(item)
            except self._item_errors as error:
                cannot_write = isinstance(error.__cause__, OSError) and not isinstance(error, ImageError)
                if isinstance(error, UsageError) or cannot_write:
                    raise
                self._fail(name(item), error)
                continue
            except MemoryError:
                self._fail(name(item), ImageError(f"{name(item)}: not enough memory for this image"))
                continue
            done = done if isinstance(done, Done) else Done(done)
            took = time.monotonic() - started
            skipped += done.skipped
            if done.size:
                seconds, megapixels = seconds + took, megapixels + done.size[0] * done.size[1] / 1e6
            self._tell_programs(
                input=name(item),
                status="skipped" if done.skipped else "done",
                outputs=[str(path) for path in done.outputs],
                **({"width": done.size[0], "height": done.size[1], "seconds": round(took, 3)} if done.size else {}),
            )
            left = (time.monotonic() - begin) / number * (len(items) - number)
            eta = f", {_duration(left)} left" if number < len(items) else ""
            passed = _duration(time.monotonic() - begin)
            print(f"[{number}/{len(items)}] {one_line(name(item))}: {done.note} ({passed}{eta})", file=sys.stderr)
        if len(items) > 1 and megapixels + skipped:
            failed = len(self.failed) - failed_before
            speed = f", {seconds / megapixels:.2f} s per megapixel" if megapixels else ""
            counts = f"{len(items) - skipped - failed} done, {skipped} skipped, {failed} failed"
            print(f"[{len(items)}/{len(items)}] {counts}{speed}", file=sys.stderr)

    def _fail(self, name: str, error: HCFlowError) -> None:
        text = str(error)
        self.complain(error if name in text else ImageError(f"{name}: {text}"))
        self._tell_programs(input=name, status="failed", outputs=[], message=text)

    def _tell_programs(self, **what: object) -> None:
        if self._as_json:
            print(json.dumps(what), flush=True)


def add_overwrite_argument(parser: argparse.ArgumentParser, *aliases: str) -> None:
    """--overwrite, the same in all commands."""
    parser.add_argument("--overwrite", *aliases, action="store_true", help="replace files that exist (never an input)")


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Which inputs are taken and which outputs exist already, the same in the commands from files to files."""
    parser.add_argument("--recursive", action="store_true", help="take the subfolders of folders, and keep them in OUT")
    parser.add_argument("--skip-existing", action="store_true", help="skip inputs whose outputs exist: goes on with a batch")
    parser.add_argument("--strip-metadata", action="store_true", help="drop EXIF, XMP, IPTC and resolution")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each input on standard output")
    add_device_argument(parser)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument(
        "--device", default="auto", metavar="auto|cpu|gpu:N", help="what computes (default: the first GPU, else the CPU)"
    )


def add_format_arguments(parser: argparse.ArgumentParser) -> None:
    """--format and --quality."""
    names = [suffix[1:] for suffix in FORMATS]
    parser.add_argument(
        "--format",
        choices=(*names, "same"),
        default="png",
        help="of the files in a folder, and of -o -; same: that of the input, where it can be written (default png)",
    )
    parser.add_argument("--quality", type=quality, metavar="1..100", help="of JPEG (default 95), AVIF (90), WebP (lossless)")


def quality(text: str) -> int:
    """An argparse type."""
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 100, got {text!r}")
    return int(text)


def add_tile_argument(parser: argparse.ArgumentParser) -> None:
    """--tile auto|N|0, the same in all commands."""
    parser.add_argument(
        "--tile",
        type=_tile,
        default=None,
        metavar="auto|N|0",
        help="side of the tiles in LR pixels; 0: the whole image at once; auto (default): as memory allows",
    )


def add_guard_argument(parser: argparse.ArgumentParser) -> None:
    """--no-guard."""
    parser.add_argument(
        "--no-guard", action="store_true", help="sample without the caps that keep unusual pictures from exploding"
    )


def add_engine_arguments(parser: argparse.ArgumentParser, *, precision: bool = True) -> None:
    """--runtime and --precision."""
    parser.add_argument(
        "--runtime",
        choices=("auto", "keras", "onnx", "openvino", "litert"),
        default="auto",
        help="what computes; all but keras run a model directory from a file that is exported once (default auto: what suits)",
    )
    if precision:
        parser.add_argument(
            "--precision",
            choices=("float32", "bfloat16", "int8"),
            default="float32",
            help="of decoding: bfloat16 is for openvino, int8 for litert (default float32)",
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
