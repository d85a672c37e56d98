"""Runs commands on lying inputs in one process and writes down everything that must not happen."""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import json
import os
import pathlib
import re
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image

from hcflow_tf.support import cli
from hcflow_tf.support.errors import one_line

SECONDS = 20.0
"""Of processor time that one input may take."""

HANG = 300.0
"""Seconds after which the process ends itself and shows where it was."""

SPARE_MEMORY = 2**30
"""Bytes of address space that the whole run may take beyond what it has after warming up."""

MARKER = "marker"
"""The file that code inside an input would create."""

_PROGRESS = re.compile(r"\[\d+/\d+\] |\d+ LR images: ")
"""Lines that tell of work done."""


class Harness:
    """Runs commands in a folder of its own.

    Attributes:
      counts: command -> runs.
      failures: one line each.
    """

    def __init__(self, folder: pathlib.Path):
        """Args: folder, empty; becomes the working directory and the home directory."""
        self.folder = folder.resolve()
        self.counts: collections.Counter[str] = collections.Counter()
        self.codes: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        os.environ["HOME"] = str(self.folder)
        os.chdir(self.folder)

    @contextlib.contextmanager
    def limited_memory(self) -> Iterator[None]:
        """Inside, a memory bomb fails instead of taking what the machine has."""
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + SPARE_MEMORY
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    def command(self, name: str, argv: Sequence[str], *, inputs: Iterable[str], output: str | None = None) -> int | None:
        """Runs a command and checks how it ends.

        Args:
          name: of the command.
          argv: its arguments.
          inputs: on failure, stderr must name one of them (or the output, if that cannot be written).
          output: file or folder that it writes; must be whole, and there if the command says that it is done.

        Returns:
          The exit code; None if there is none, because the command raised.
        """
        what, code = f"{name} {one_line(' '.join(argv))}", None
        with self.watched(name, what), _captured() as streams:
            try:
                code = cli.execute(name, argv)
            except SystemExit as stop:
                code = stop.code
        self.codes[f"{name} {code}"] += 1
        if streams and code is not None:
            named = [one_line(text) for text in (*inputs, f"cannot write {output}")]
            self._judge(name, what, code, *streams, named)
        if output:
            self.check_output(what, pathlib.Path(output), must_exist=code == 0)
        return code

    def _judge(self, name: str, what: str, code: int, out: str, err: str, named: list[str]) -> None:
        """Exit codes and lines are those that the commands promise."""
        lines = [line for line in err.splitlines() if ": note: " not in line and not _PROGRESS.match(line)]
        complaints = [line for line in lines if line.startswith(f"hcflow {name}: ")]
        if code not in (0, 1, 2):
            self.fail(what, f"exit code {code}")
        if "Traceback" in out + err or "--debug shows where" in err:
            self.fail(what, f"internal error: {err[-500:]}")
        if len(complaints) < len(lines):
            self.fail(what, f"stray line on stderr: {next(line for line in lines if line not in complaints)[:300]}")
        if any(line != one_line(line) or len(line) > 3000 for line in err.splitlines()):
            self.fail(what, f"unclear line on stderr: {max(err.splitlines(), key=len)[:300]!r}")
        if bool(code) != bool(complaints):
            self.fail(what, f"exit code {code} with {len(complaints)} complaints")
        if code and not any(text in line for text in named for line in complaints):
            self.fail(what, f"no input is named: {complaints[:1]}")

    @contextlib.contextmanager
    def watched(self, name: str, what: str) -> Iterator[None]:
        """Counts a run, and watches its time and the marker."""
        self.counts[name] += 1
        pathlib.Path("current.txt").write_text(what[:2000], errors="backslashreplace")
        faulthandler.dump_traceback_later(HANG, exit=True)
        begin = time.process_time()
        try:
            yield
        except Exception as error:
            self.fail(what, f"raised {type(error).__name__}: {str(error)[:300]}")
        faulthandler.cancel_dump_traceback_later()
        seconds = time.process_time() - begin
        if seconds > SECONDS:
            self.fail(what, f"took {seconds:.1f} s")
        if pathlib.Path(MARKER).exists():
            pathlib.Path(MARKER).unlink()
            self.fail(what, "executed code of the input")

    def check_output(self, what: str, output: pathlib.Path, *, must_exist: bool) -> None:
        """Every file there must be whole, with nothing half written beside it; removes them."""
        files = [path for path in output.rglob("*") if path.is_file()] if output.is_dir() else [output]
        files = [path for path in files if path.exists()]
        if must_exist and not files:
            self.fail(what, "done, but there is no output")
        for path in files:
            if path.name.startswith("."):
                self.fail(what, f"left {path} behind")
            try:
                if path.suffix == ".json":
                    json.loads(path.read_text(), parse_constant=_no_number)
                elif path.suffix in (".png", ".jpg"):
                    with Image.open(path) as image:
                        image.load()
                elif path.suffix == ".npz":
                    with np.load(path, allow_pickle=False) as arrays:
                        assert all(np.isfinite(array).all() for array in arrays.values())
            except Exception as error:  # whatever a reader says of a file that is not whole
                self.fail(what, f"{path} is not whole: {type(error).__name__} {error}")
            path.unlink()
        beside = [path for path in output.parent.glob(f".{output.stem}*") if path.is_file()]
        if beside:
            self.fail(what, f"left {beside[0]} behind")

    def fail(self, what: str, why: str) -> None:
        """Notes a failure."""
        self.failures.append(one_line(f"{what}: {why}"))


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """A list that holds, afterwards, what was written to stdout and to stderr, by C code too."""
    texts: list[str] = []
    with contextlib.ExitStack() as stack:
        for number, redirect in ((1, contextlib.redirect_stdout), (2, contextlib.redirect_stderr)):
            file, saved = stack.enter_context(tempfile.TemporaryFile()), os.dup(number)
            stack.callback(_give_back, number, saved, file, texts)
            os.dup2(file.fileno(), number)
            # Whatever stands in for sys.stdout and sys.stderr just now, they write to the same place.
            stream = stack.enter_context(open(number, "w", buffering=1, errors="backslashreplace", closefd=False))
            stack.enter_context(redirect(stream))
        yield texts
    texts.reverse()


def _give_back(number: int, saved: int, file: BinaryIO, texts: list[str]) -> None:
    os.dup2(saved, number)
    os.close(saved)
    file.seek(0)
    texts.append(file.read().decode(errors="backslashreplace"))
