"""Writes OUTPUT/VERSION/saved_model.pb for TF Serving, with warm-up requests, batching parameters and a compose file.

Signatures: serving_default = upscale (uint8 to uint8, temperature 0), sample (image, temperature, seed), upscale_bytes
(PNG or JPEG in, PNG out), encode, decode, log_prob (float32), and downscale, downscale_bytes for rescaling models.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import shutil
import tempfile
from typing import TYPE_CHECKING

from hcflow_tf.images.batch import positive_int
from hcflow_tf.runtimes import export_frame as frame
from hcflow_tf.support.errors import HCFlowError, UsageError

if TYPE_CHECKING:
    from hcflow_tf.models.trained_model import TrainedModel

TOLERANCE = 1e-5
"""Largest error as a share of the largest value."""

MAX_PIXELS = 512 * 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    frame.add_arguments(parser, "directory of the versions; its name is the served model's name")
    parser.add_argument("--version", type=int, help="number of the version (default: one above the highest there)")
    parser.add_argument(
        "--max-pixels",
        type=positive_int,
        default=MAX_PIXELS,
        help=f"largest LR image that is served, in pixels (default {MAX_PIXELS})",
    )


def run(args: argparse.Namespace) -> None:
    """Exports, checks, writes."""
    name, target = frame.model_name(args.output), args.output / str(_version(args))
    model = frame.load(args)

    import tensorflow as tf

    from hcflow_tf.models.folded import InferenceModel
    from hcflow_tf.runtimes.serving_files import docker_run, warmup_inputs, write_server_files, write_warmup
    from hcflow_tf.runtimes.serving_module import ServingModule

    try:
        args.output.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=".export-", dir=args.output))
    except OSError as error:
        raise HCFlowError(f"cannot write {args.output}: {error.strerror}") from error
    try:
        module = ServingModule(InferenceModel(model), args.max_pixels)
        signatures = module.signatures()
        tf.saved_model.save(module, str(temporary), signatures=signatures)
        largest = check(model, temporary)
        requests = warmup_inputs(model.scale, model.latents, signatures)
        write_warmup(temporary, name, requests)
        temporary.chmod(0o755)
        _put(temporary, target)
        write_server_files(args.output)
    except OSError as error:
        raise HCFlowError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # goes only if it is empty: nothing was exported
            args.output.rmdir()
    print(f"largest error: {largest:.1e} of the largest value")
    print(f"{target}\nserve it: {docker_run(args.output)}")


def _put(new: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a directory, over another one if need be, which goes only once the new one stands in its place."""
    old = new.with_name(f"{new.name}-old")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _version(args: argparse.Namespace) -> int:
    directory, wanted = args.output, args.version
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"--output {directory}: is a file; name a directory")
    present = {int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal()} if directory.is_dir() else set()
    if wanted is None:
        return max(present, default=0) + 1
    if wanted < 1:
        raise UsageError(f"--version {wanted}: must be 1 or more")
    if wanted in present and not args.overwrite:
        raise UsageError(f"--version {wanted}: is there already; leave --version out for the next one, or give --overwrite")
    return wanted


def check(model: TrainedModel, directory: pathlib.Path) -> float:
    """Compares every signature with the model; returns the largest error.

    Raises:
      HCFlowError: a value is off by more than the tolerance, or a byte differs where it should not.
    """
    from hcflow_tf.images.images import quantize
    from hcflow_tf.runtimes.saved_model import SavedModelRuntime

    runtime = SavedModelRuntime(directory)
    images = list(frame.check_images(model))
    # A random image can drive a trained model where float32 itself is less exact, and the folded form rounds in other
    # places: 1.2 and 2.9 times the model's own rounding for the two shipped models.
    error = frame.check_runtime(runtime, images, max(TOLERANCE, 4 * frame.rounding(model, images)))
    for image in images:
        expected = model.decode(image.lr).numpy()
        served = runtime.call("upscale", image=quantize(image.lr))["image"]
        frame.check_bytes(f"upscale of a {image.name}", served, expected)
    return error
