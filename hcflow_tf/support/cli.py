"""What all commands share: parsing, one-line errors, exit codes, and the `hcflow NAME` script."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import types
import warnings
from collections.abc import Sequence

from hcflow_tf import __version__
from hcflow_tf.support.errors import HCFlowError, complain

COMMANDS: tuple[str, ...] = ("train", "evaluate", "report", "compare", "upscale", "downscale")
COMMANDS += ("convert", "prepare", "info", "export", "demo", "beam")


def execute(name: str, argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    A command is a module `hcflow_tf.NAME` with `add_arguments(parser)` and `run(args) -> int | None`.
    """
    return execute_module(f"hcflow {name}", importlib.import_module(f"hcflow_tf.{name}"), argv)


def execute_module(prog: str, command: types.ModuleType, argv: Sequence[str] | None = None) -> int:
    """Runs `command`, a module as `execute` wants it, under the name `prog`; returns its exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    parser = argparse.ArgumentParser(prog=prog, description=command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if getattr(command, "TAKES_OTHER_OPTIONS", False):
        args, other_options = parser.parse_known_args(argv)
        args.other_options = other_options
    else:
        args = parser.parse_args(argv)
    if not args.debug:
        _quiet_libraries()
    if hasattr(sys.stdout, "reconfigure"):  # not so where a caller has put something of its own in its place
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: no file name is a reason to fail
    try:
        code = command.run(args) or 0
        sys.stdout.flush()  # so that a closed pipe shows here
        return code
    except HCFlowError as error:
        if args.debug:
            raise
        return _fail(prog, error, error.exit_code)
    except KeyboardInterrupt:
        return _fail(prog, "interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        text = " ".join(str(error).split())
        return _fail(prog, f"{type(error).__name__}: {text[:500]} (--debug shows where)", 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `hcflow` console script: `hcflow NAME ...`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="hcflow", description="HCFlow in TensorFlow.", epilog="hcflow NAME --help explains one."
    )
    parser.add_argument("--version", action="version", version=f"hcflow {__version__}")
    parser.add_argument("command", choices=COMMANDS)
    return execute(parser.parse_args(argv[:1]).command, argv[1:])


def _fail(prog: str, error: object, exit_code: int) -> int:
    complain(prog, error)
    return exit_code


def _quiet_libraries() -> None:
    """What Pillow, tifffile and NumPy remark on a damaged file, and TensorFlow on its own API, stays unsaid: the command's own
    line says what matters."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    if logging.lastResort:
        logging.lastResort.setLevel(logging.CRITICAL)
