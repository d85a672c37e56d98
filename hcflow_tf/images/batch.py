"""What the commands over many images share: going on after a bad file, progress, summary, options."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import errno
import functools
import json
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
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
    writes: Sequence[Future[None]] = ()
    """What is still being written of it."""


class Batch:
    """Runs over items, names the bad ones on stderr and goes on; `exit_code` is 1 if there was one."""

    def __init__(self, command: str, *, as_json: bool = False, item_errors: type[HCFlowError] = ImageError):
        """Begins a batch.

        Args:
          command: its name, for the messages.
          as_json: whether a line for programs goes to stdout for each item.
          item_errors: errors that concern one item: the batch goes on. Whatever this is, wrong usage and outputs that
            cannot be written (a full disk) end it, but for a name that is too long.
        """
        self._command, self._as_json, self._item_errors = command, as_json, item_errors
        self._shown: dict[str, str] = {}
        self.failed: list[str] = []

    @property
    def exit_code(self) -> int:
        """0, or 1 after a bad file."""
        return 1 if self.failed else 0

    def show_as(self, path: pathlib.Path, name: str) -> None:
        """Shows this name wherever the path would be shown."""
        self._shown[str(path)] = name

    def shown(self, text: object) -> str:
        """The text, what `show_as` named replaced."""
        result = str(text)
        for path, name in self._shown.items():
            result = result.replace(path, name)
        return result

    def complain(self, error: Exception) -> None:
        """Names a bad file."""
        self.failed.append(self.shown(error))
        complain(f"hcflow {self._command}", HCFlowError(*map(self.shown, error.args)) if self._shown else error)

    def remark(self, text: str) -> None:
        """Says what is worth knowing, and is no error."""
        complain(f"hcflow {self._command}: note", self.shown(text))

    def run(self, items: Sequence[Item], name: Callable[[Item], str], work: Callable[[Item], Done | str]) -> None:
        """Calls work(item) for all items; it returns what was done, or a note for the progress line.

        An image too large for the memory is that item's own error, too. Of an item is told, in their order, as soon as all of
        it is written; work on the next one begins before.
        """
        report = _Report(self, len(items))
        try:
            for item in items:
                report.add(name(item), self.outcome(name(item), functools.partial(work, item)))
        finally:
            report.wait()
        report.sum_up()

    def outcome(self, name: str, work: Callable[[], Done | str]) -> Done | HCFlowError:
        """What `work` returns, or the item's own error; raises what ends the batch."""
        try:
            done = work()
        except self._item_errors as error:
            cause = None if isinstance(error, ImageError) else error.__cause__
            cannot_write = isinstance(cause, OSError) and cause.errno != errno.ENAMETOOLONG
            if isinstance(error, UsageError) or cannot_write:
                raise
            return error
        except MemoryError:
            return ImageError(f"{name}: not enough memory for this image")
        return done if isinstance(done, Done) else Done(done)

    def fail(self, name: str, error: HCFlowError) -> None:
        """Names a bad item, to programs, too."""
        text = str(error)
        self.complain(error if name in text else ImageError(f"{name}: {text}"))
        self.tell_programs(input=self.shown(name), status="failed", outputs=[], message=self.shown(text))

    def tell_programs(self, **what: object) -> None:
        """A line of JSON, if that is wanted."""
        if self._as_json:
            print(json.dumps(what), flush=True)


class _Report:
    """Tells of the items of a batch, in their order, as soon as each is done: in the threads that write, too."""

    def __init__(self, batch: Batch, count: int):
        self._batch, self._count = batch, count
        self._lock = threading.RLock()
        self._waiting: collections.deque[tuple[str, Done | HCFlowError]] = collections.deque()
        self._error: BaseException | None = None
        self._begin = self._before = time.monotonic()
        self._number = self._skipped = self._failed = 0
        self._seconds = self._megapixels = 0.0

    def add(self, name: str, outcome: Done | HCFlowError) -> None:
        """Takes the next item; raises what ended the batch while an earlier one was being written."""
        with self._lock:
            self._waiting.append((name, outcome))
        for written in _writes(outcome):
            written.add_done_callback(self._advance)
        self._advance()
        if self._error:
            raise self._error

    def wait(self) -> None:
        """Waits until all is written, and raises what ended the batch."""
        with self._lock:
            writes = [written for _, outcome in self._waiting for written in _writes(outcome)]
        wait(writes)
        self._advance()
        if self._error:
            raise self._error

    def sum_up(self) -> None:
        """The last line."""
        if self._count > 1 and self._megapixels + self._skipped:
            speed = f", {self._seconds / self._megapixels:.2f} s per megapixel" if self._megapixels else ""
            done = self._number - self._skipped - self._failed
            counts = f"{done} done, {self._skipped} skipped, {self._failed} failed"
            print(f"[{self._number}/{self._count}] {counts}{speed}", file=sys.stderr)

    def _advance(self, _: Future[None] | None = None) -> None:
        with self._lock:
            while self._waiting and all(w.done() for w in _writes(self._waiting[0][1])):
                name, outcome = self._waiting.popleft()
                try:
                    self._tell(name, self._batch.outcome(name, functools.partial(_written, outcome)))
                except BaseException as error:  # of a thread that writes; the main one raises it
                    self._error = self._error or error
                    message = self._batch.shown(error)
                    self._batch.tell_programs(input=self._batch.shown(name), status="failed", outputs=[], message=message)

    def _tell(self, name: str, outcome: Done | HCFlowError) -> None:
        shown = self._batch.shown(name)
        self._number += 1
        now = time.monotonic()
        took, self._before = now - self._before, now
        if isinstance(outcome, HCFlowError):
            self._failed += 1
            self._batch.fail(name, outcome)
            return
        self._skipped += outcome.skipped
        if outcome.size:
            self._seconds += took
            self._megapixels += outcome.size[0] * outcome.size[1] / 1e6
        self._batch.tell_programs(
            input=shown,
            status="skipped" if outcome.skipped else "done",
            outputs=[str(path) for path in outcome.outputs],
            **({"width": outcome.size[0], "height": outcome.size[1], "seconds": round(took, 3)} if outcome.size else {}),
        )
        left = (now - self._begin) / self._number * (self._count - self._number)
        eta = f", {_duration(left)} left" if self._number < self._count else ""
        passed = _duration(now - self._begin)
        print(f"[{self._number}/{self._count}] {one_line(shown)}: {outcome.note} ({passed}{eta})", file=sys.stderr)


def _writes(outcome: Done | HCFlowError) -> Sequence[Future[None]]:
    return outcome.writes if isinstance(outcome, Done) else ()


def _written(outcome: Done | HCFlowError) -> Done:
    """The item, or the error of what was written, or its own."""
    if isinstance(outcome, HCFlowError):
        raise outcome
    for written in outcome.writes:
        written.result()
    return outcome


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


def add_refine_argument(parser: argparse.ArgumentParser) -> None:
    """--refine."""
    parser.add_argument(
        "--refine",
        type=positive_int,
        default=0,
        metavar="STEPS",
        help="fit each LR image of a rescaling model to its original in so many steps of gradient descent: it is restored better "
        "for it; 5 give most of what there is to gain (default 0)",
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
