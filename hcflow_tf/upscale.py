"""Restores images: INPUT is enlarged by the model's scale.

INPUT are files and folders; OUT is a folder, or a file name for a single input. Folders get PNG files named as their
source; with --samples N they are name_1.png to name_N.png, sample i drawn with seed + i - 1.

The EXIF orientation is applied, a colour profile kept, transparency enlarged, gray stays gray. A file written by
`hcflow downscale` gets its original size back. Same seed and tile size, same bytes.

Without --model, a file written by `hcflow downscale` is restored by the shipped model that shrank it, and every other by
sr-x4-compact.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
from typing import TYPE_CHECKING

from hcflow_tf.images import batch
from hcflow_tf.support import cli
from hcflow_tf.support.errors import UsageError

if TYPE_CHECKING:
    from hcflow_tf.runtimes.runtime import Runtime

SAMPLING_TEMPERATURE = 0.8
"""Default where several samples are asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("input", nargs="+", metavar="INPUT", help="image files and folders of images")
    parser.add_argument("--model", help="model directory or name, SavedModel, .tflite, .onnx, or bicubic (default: see above)")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder, or file name for one input")
    parser.add_argument(
        "--temperature", type=batch.temperature, metavar="T", help="0 (default): smoothest; with --samples, default 0.8"
    )
    parser.add_argument("--seed", type=batch.seed, default=0, metavar="N", help="of the random details (default 0)")
    parser.add_argument("--samples", type=batch.positive_int, default=1, metavar="N", help="images to draw per input (default 1)")
    parser.add_argument(
        "--uncertainty", action="store_true", help="also write name_uncertainty.png: standard deviation of the samples"
    )
    parser.add_argument("--bits", choices=("8", "16", "auto"), default="8", help="of the output; auto: as the input (default 8)")
    parser.add_argument("--max-pixels", type=batch.positive_int, metavar="N", help="cap on an output image (default 536870912)")
    batch.add_overwrite_argument(parser)
    batch.add_tile_argument(parser)
    batch.add_scale_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from hcflow_tf.weights.store import model_files

    work = batch.Batch("upscale")
    sources = batch.find_inputs(args.input, work)
    plans = batch.plan_outputs(
        sources,
        args.output,
        lambda path: _outputs(path, args.samples, args.uncertainty),
        models=model_files(args.model) if args.model else (),
        overwrite=args.overwrite,
    )
    if not sources:
        return work.exit_code

    from hcflow_tf.inference.pictures import MAX_PIXELS, model_of, upscale_file
    from hcflow_tf.inference.scaling import Scaler
    from hcflow_tf.runtimes.runtime import open_runtime

    if args.uncertainty and args.samples < 2:
        raise UsageError("--uncertainty compares samples: give --samples 2 or more")

    @functools.cache
    def scaler_and_temperature(model: str) -> tuple[Scaler, float]:
        runtime = open_runtime(model, scale=args.scale)
        return Scaler(runtime, args.tile), _temperature(args, model, runtime)

    if args.model:
        scaler_and_temperature(args.model)  # what is wrong with it is told before the first image

    def upscale(item: tuple[pathlib.Path, list[pathlib.Path]]) -> str:
        source, targets = item
        model = args.model or model_of(source)
        scaler, temperature = scaler_and_temperature(model)
        note = upscale_file(
            scaler,
            source,
            targets[: args.samples],
            temperature=temperature,
            seed=args.seed,
            bits=None if args.bits == "auto" else int(args.bits),
            uncertainty=targets[-1] if args.uncertainty else None,
            max_pixels=args.max_pixels or MAX_PIXELS,
        )
        return note if args.model else f"{note}, {model}"

    work.run(list(zip(sources, plans, strict=True)), lambda item: str(item[0]), upscale)
    return work.exit_code


def _outputs(path: pathlib.Path, samples: int, uncertainty: bool) -> list[pathlib.Path]:
    """The samples, then the heat map."""
    images = [path] if samples == 1 else [path.with_stem(f"{path.stem}_{number + 1}") for number in range(samples)]
    return images + ([path.with_name(f"{path.stem}_uncertainty.png")] if uncertainty else [])


def _temperature(args: argparse.Namespace, model: str, runtime: Runtime) -> float:
    if not runtime.latent_channels:
        if args.temperature or args.samples > 1:
            raise UsageError(f"{model} takes no latents: it has no temperature but 0 and one sample per image")
        return 0.0
    temperature = args.temperature
    if temperature is None:
        temperature = SAMPLING_TEMPERATURE if args.samples > 1 else 0.0
    if temperature == 0 and args.samples > 1:
        raise UsageError(f"--samples {args.samples} at temperature 0 are all the same; give --temperature 0.8, for example")
    return temperature


if __name__ == "__main__":
    raise SystemExit(cli.execute("upscale"))
