"""What all commands share: parsing, one-line errors, exit codes, and the `hcflow NAME` script."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import types
from collections.abc import Sequence

from hcflow_tf.errors import HCFlowError

COMMANDS = ("train", "evaluate", "compare", "upscale", "downscale", "convert", "prepare", "info")


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
    args = parser.parse_args(argv)
    try:
        code = command.run(args) or 0
        sys.stdout.flush()  # so that a closed pipe shows here
        return code
    except HCFlowError as error:
        if args.debug:
            raise
        return _complain(prog, error, error.exit_code)
    except KeyboardInterrupt:
        return _complain(prog, "interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        text = " ".join(str(error).split())
        return _complain(prog, f"{type(error).__name__}: {text[:500]} (--debug shows where)", 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `hcflow` console script: `hcflow NAME ...`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="hcflow", description="HCFlow in TensorFlow.", epilog="hcflow NAME --help explains one."
    )
    parser.add_argument("command", choices=COMMANDS)
    return execute(parser.parse_args(argv[:1]).command, argv[1:])


def _complain(prog: str, message: object, exit_code: int) -> int:
    print(f"{prog}: {message}", file=sys.stderr)
    return exit_code
