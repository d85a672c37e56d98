"""Turns the authors' weights (a PyTorch .pth file) of HCFlow, IRN, SRFlow or RRDB/ESRGAN into a model directory.

System, task, scale, numbers of steps, widths and blocks are inferred from the names and shapes in the file. --released downloads
one of the authors' files first (kept in ~/.cache/hcflow_tf; an interrupted download goes on where it stopped; the
environment variable HCFLOW_MIRROR is the URL of a folder of the files elsewhere).
"""

from __future__ import annotations

import argparse
import pathlib

from hcflow_tf.images import batch
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.files import cache_folder, check_targets, is_file

RELEASED_URL = "https://github.com/JingyunLiang/HCFlow/releases/download/v0.0/"
RELEASED = (
    "SR_DF2K_X4_HCFlow",
    "SR_DF2K_X4_HCFlow+",
    "SR_DF2K_X4_HCFlow++",
    "SR_CelebA_X8_HCFlow",
    "SR_CelebA_X8_HCFlow+",
    "SR_CelebA_X8_HCFlow++",
    "Rescaling_DF2K_X4_HCFlow",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("weights", nargs="?", type=pathlib.Path, metavar="weights.pth", help="a released weight file")
    parser.add_argument("-o", "--output", required=True, type=pathlib.Path, metavar="DIR", help="the model directory to write")
    parser.add_argument("--released", choices=RELEASED, metavar="NAME", help=f"download one of: {', '.join(RELEASED)}")
    parser.add_argument("--sha256", help="the checksum that the weight file must have")
    batch.add_overwrite_argument(parser, "--force")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from hcflow_tf.weights.store import CONFIG_FILE, WEIGHTS_FILE

    if bool(args.weights) == bool(args.released):
        raise UsageError("give either a weight file or --released NAME")
    if is_file(args.output):
        raise UsageError(f"-o {args.output}: is a file; name a directory")
    inputs = [args.weights] if args.weights else []
    check_targets((args.output / name for name in (CONFIG_FILE, WEIGHTS_FILE)), inputs=inputs, overwrite=args.overwrite)
    convert(_weight_file(args), args.output)


def convert(path: pathlib.Path, output: pathlib.Path) -> None:
    """Reads the weight file at `path` and writes the model directory `output`; prints what it found.

    Raises:
      HCFlowError: the file cannot be read or is of no known system, or the directory cannot be written.
    """
    import numpy as np

    from hcflow_tf.weights import released as weights
    from hcflow_tf.weights.store import assign_weights, save_model, weight_shapes

    state = weights.read_state_dict(path)
    infinite = sorted(name for name, value in state.items() if not np.isfinite(value).all())
    if infinite:
        raise HCFlowError(f"{path}: {len(infinite)} entries are not finite, such as {infinite[0][:80]}: the training diverged")
    try:
        config = weights.infer_config({name: value.shape for name, value in state.items()})
        mapped = weights.map_released(state, weight_shapes(config), config)
    except HCFlowError as error:
        raise HCFlowError(f"{path}: {error}") from error

    from hcflow_tf.models.guard import ensure_guard
    from hcflow_tf.models.systems import make_model

    model = make_model(config)
    assign_weights(model, mapped, source=path)
    ensure_guard(model)
    save_model(model, output)
    ignored = sum(value.size for name, value in state.items() if weights.is_ignored(name, config))
    rows = {
        "system": config.system,
        "task": f"{config.task} x{config.scale}",
        **config.describe(),
        "parameters": f"{model.count_params():,}" + (f" (and {ignored:,} values that are no weights)" if ignored else ""),
        "written to": str(output),
    }
    print("\n".join(f"{name:16} {value}" for name, value in rows.items()))


def _weight_file(args: argparse.Namespace) -> pathlib.Path:
    from hcflow_tf.support.download import digest, fetch

    if args.released:
        name = f"{args.released}.pth"
        return fetch(RELEASED_URL + name, cache_folder() / name, sha256=args.sha256)
    if args.sha256 and args.weights.is_file() and (actual := digest(args.weights)) != args.sha256.lower():
        raise HCFlowError(f"{args.weights} has SHA-256 {actual}, expected {args.sha256.lower()}")
    return args.weights


if __name__ == "__main__":
    raise SystemExit(cli.execute("convert"))
