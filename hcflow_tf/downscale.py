"""Shrinks images by the model's scale so that `hcflow upscale` with the same model restores them.

INPUT are files and folders; OUT is a folder, or a .png file name for a single input. The LR images are 8-bit PNG; their
text entries keep the original size, which `hcflow upscale` restores exactly, and the name of the model where it ships.
The bytes of each are reported beside those that MATLAB's bicubic would take.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from hcflow_tf.images import batch
from hcflow_tf.support import cli
from hcflow_tf.support.errors import UsageError
from hcflow_tf.weights.shipped import DEFAULT_MODEL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("input", nargs="+", metavar="INPUT", help="image files and folders of images")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL["rescaling"],
        help="model directory or name, SavedModel, .tflite, .onnx, or bicubic (default: %(default)s)",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder, or .png file name for one input")
    parser.add_argument("--max-pixels", type=batch.positive_int, metavar="N", help="cap on an input image (default 536870912)")
    batch.add_overwrite_argument(parser)
    batch.add_tile_argument(parser)
    batch.add_scale_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from hcflow_tf.weights.store import model_files

    work = batch.Batch("downscale")
    sources = batch.find_inputs(args.input, work)
    plans = batch.plan_outputs(sources, args.output, _outputs, models=model_files(args.model), overwrite=args.overwrite)
    if not sources:
        return work.exit_code

    from hcflow_tf.inference.pictures import MAX_PIXELS, compare_bytes, downscale_file
    from hcflow_tf.inference.scaling import Scaler
    from hcflow_tf.runtimes.runtime import BICUBIC, open_runtime

    runtime = open_runtime(args.model, scale=args.scale)
    if runtime.task != "rescaling" and args.model != BICUBIC:
        print(
            f"hcflow downscale: note: {args.model} is a super-resolution model: its LR images look like bicubic ones "
            "and keep nothing extra for upscaling",
            file=sys.stderr,
        )
    scaler, made = Scaler(runtime, args.tile), []

    def downscale(item: tuple[pathlib.Path, list[pathlib.Path]]) -> str:
        source, (target,) = item
        made.append(downscale_file(scaler, source, target, max_pixels=args.max_pixels or MAX_PIXELS))
        return made[-1].note()

    work.run(list(zip(sources, plans, strict=True)), lambda item: str(item[0]), downscale)
    if len(made) > 1:
        total = compare_bytes(sum(image.png_bytes for image in made), sum(image.bicubic_bytes for image in made))
        print(f"{len(made)} LR images: {total}", file=sys.stderr)
    return work.exit_code


def _outputs(path: pathlib.Path) -> list[pathlib.Path]:
    if path.suffix.lower() != ".png":
        raise UsageError(f"-o {path}: LR images are PNG, which keep every value and the original size; name it .png")
    return [path]


if __name__ == "__main__":
    raise SystemExit(cli.execute("downscale"))
