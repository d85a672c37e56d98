"""Shrinks images by the model's scale so that `hcflow upscale` with the same model restores them.

INPUT are files, folders and - (standard input); OUT is a folder, a .png file name for a single input, or -
(standard output). The LR images are 8-bit PNG; their
text entries keep the original size, which `hcflow upscale` restores exactly, and the name of the model where it ships.
The bytes of each are reported beside those that MATLAB's bicubic would take.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from hcflow_tf.images import batch, inputs, outputs
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.weights.shipped import DEFAULT_MODEL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("input", nargs="+", metavar="INPUT", help="image files, folders of images, or -")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL["downscale"],
        help="model directory or name, SavedModel, .tflite, .onnx, or bicubic (default: %(default)s)",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder, .png file name for one input, or -")
    parser.add_argument("--max-pixels", type=batch.positive_int, metavar="N", help="cap on an input image (default 536870912)")
    batch.add_overwrite_argument(parser)
    batch.add_batch_arguments(parser)
    batch.add_tile_argument(parser)
    batch.add_scale_argument(parser)
    batch.add_engine_arguments(parser, precision=False)
    batch.add_refine_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if args.output == outputs.STANDARD_OUTPUT and args.json:
        raise UsageError("-o -: standard output takes one image and nothing else: no --json")
    with inputs.standard_input(args.input) as piped, outputs.standard_output(args.output, ".png") as output:
        return _run(args, piped, output)


def _run(args: argparse.Namespace, piped: pathlib.Path | None, output: str) -> int:
    from hcflow_tf.weights.store import model_files

    work = batch.Batch("downscale", as_json=args.json, item_errors=HCFlowError)
    sources = inputs.find_inputs(args.input, work, recursive=args.recursive, output=output, standard_input=piped)
    models = model_files(args.model)
    plans = outputs.plan_outputs(
        sources, output, _outputs, models=models, overwrite=args.overwrite, skip_existing=args.skip_existing
    )
    if not sources:
        return work.exit_code

    from hcflow_tf.inference.pictures import MAX_PIXELS, compare_bytes, downscale_file
    from hcflow_tf.inference.scaling import Scaler
    from hcflow_tf.runtimes.bicubic import BICUBIC
    from hcflow_tf.runtimes.light import MAX_LR_PIXELS, count_pixels
    from hcflow_tf.runtimes.open import open_runtime
    from hcflow_tf.support.devices import check_on_gpu, select_device

    select_device(args.device)
    pixels = count_pixels((source.path for source in sources), MAX_LR_PIXELS, pixels_each=16)
    # Other engines than ONNX Runtime's, which many pixels are worth trying, only decode.
    to_suit = pixels if args.device == "auto" and pixels <= MAX_LR_PIXELS else None
    runtime = open_runtime(args.model, scale=args.scale, engine=args.runtime, pixels=to_suit, refine=args.refine)
    check_on_gpu(args.device, args.model, runtime.on_gpu)
    if not runtime.can_downscale:
        raise UsageError(f"{args.model} has no encoder: it makes no LR images; give a model that does")
    if not runtime.makes_lr and args.model != BICUBIC:
        work.remark(
            f"{args.model} is a super-resolution model: its LR images look like bicubic ones and keep nothing extra for upscaling"
        )
    scaler, made = Scaler(runtime, args.tile), []

    def downscale(item: tuple[inputs.Input, list[pathlib.Path]]) -> batch.Done:
        source, targets = item
        if not targets:
            return batch.Done("skipped: the output exists", skipped=True)
        result = downscale_file(
            scaler,
            source.path,
            targets[0],
            max_pixels=args.max_pixels or MAX_PIXELS,
            strip_metadata=args.strip_metadata,
            remark=work.remark,
        )
        made.append(result)
        return batch.Done(result.note(), targets, result.original)

    work.run(list(zip(sources, plans, strict=True)), lambda item: str(item[0].path), downscale)
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
