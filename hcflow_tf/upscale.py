"""Restores images: INPUT is enlarged by the model's scale.

INPUT are files, folders and - (standard input); OUT is a folder, a file name for a single input, or - (standard output).
Folders get PNG files (or --format) named as their source, name_2.png where several sources have one name; with --samples N
they are name_1.png to name_N.png, sample i drawn with seed + i - 1.

The EXIF orientation is applied, colour profile and metadata are kept, transparency is enlarged, gray stays gray. A file
written by `hcflow downscale` gets its original size back. Same seed and tile size, same bytes.

Without --model, a file written by `hcflow downscale` is restored by the shipped model that shrank it, and every other by
sr-x4-compact-3, or by sr-x4-compact-2 if samples are asked for (--temperature above 0, --samples).
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import re
from concurrent.futures import Future
from typing import TYPE_CHECKING

from hcflow_tf.images import batch, inputs, outputs
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError, UsageError

if TYPE_CHECKING:
    from hcflow_tf.runtimes.runtime import Runtime

SAMPLING_TEMPERATURE = 0.8
"""Default where several samples are asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("input", nargs="+", metavar="INPUT", help="image files, folders of images, or -")
    parser.add_argument("--model", help="model directory or name, SavedModel, .tflite, .onnx, or bicubic (default: see above)")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder, file name for one input, or -")
    parser.add_argument(
        "--temperature", type=batch.temperature, metavar="T", help="0 (default): smoothest; with --samples, default 0.8"
    )
    parser.add_argument("--seed", type=batch.seed, default=0, metavar="N", help="of the random details (default 0)")
    parser.add_argument("--samples", type=batch.positive_int, default=1, metavar="N", help="images to draw per input (default 1)")
    parser.add_argument(
        "--uncertainty", action="store_true", help="also write name_uncertainty.png: standard deviation of the samples"
    )
    parser.add_argument(
        "--bits",
        choices=("8", "16", "auto"),
        default="auto",
        help="of the output; auto (default): as the input",
    )
    parser.add_argument("--outscale", type=_factor, metavar="S", help="times the input's size, by bicubic from the model's scale")
    parser.add_argument("--size", type=_box, metavar="WxH", help="size into which the output is to fit, its aspect kept")
    parser.add_argument("--max-pixels", type=batch.positive_int, metavar="N", help="cap on an output image (default 536870912)")
    batch.add_overwrite_argument(parser)
    batch.add_batch_arguments(parser)
    batch.add_format_arguments(parser)
    batch.add_tile_argument(parser)
    batch.add_scale_argument(parser)
    batch.add_guard_argument(parser)
    batch.add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    suffix = outputs.SAME if args.format == outputs.SAME else f".{args.format}"
    if args.output == outputs.STANDARD_OUTPUT and (args.json or args.samples > 1 or args.uncertainty):
        raise UsageError("-o -: standard output takes one image and nothing else: no --samples, --uncertainty, --json")
    if args.outscale and args.size:
        raise UsageError("--outscale and --size: give one of them")
    with inputs.standard_input(args.input) as piped, outputs.standard_output(args.output, suffix) as output:
        return _run(args, piped, output, suffix)


def _run(args: argparse.Namespace, piped: pathlib.Path | None, output: str, suffix: str) -> int:
    from hcflow_tf.weights.store import model_files

    work = batch.Batch("upscale", as_json=args.json, item_errors=HCFlowError)
    sources = inputs.find_inputs(args.input, work, recursive=args.recursive, output=output, standard_input=piped)
    plans = outputs.plan_outputs(
        sources,
        output,
        lambda path: _outputs(path, args.samples, args.uncertainty),
        suffix=suffix,
        models=model_files(args.model) if args.model else (),
        overwrite=args.overwrite,
        skip_existing=args.skip_existing,
    )
    if not sources:
        return work.exit_code

    from hcflow_tf.images.write import BackgroundWriter
    from hcflow_tf.inference.pictures import MAX_PIXELS, Size, better_model, model_of, upscale_file
    from hcflow_tf.inference.scaling import Scaler
    from hcflow_tf.runtimes.light import count_pixels
    from hcflow_tf.runtimes.open import MANY_LR_PIXELS, open_runtime
    from hcflow_tf.support.devices import check_on_gpu, select_device

    if args.uncertainty and args.samples < 2:
        raise UsageError("--uncertainty compares samples: give --samples 2 or more")
    select_device(args.device)
    size = Size(args.outscale, args.size) if args.outscale or args.size else None
    most_probable = not args.temperature and args.samples == 1
    pixels = None
    if args.device == "auto" and most_probable:
        pixels = count_pixels((source.path for source in sources), MANY_LR_PIXELS)
    options = {"guard": not args.no_guard, "engine": args.runtime, "precision": args.precision, "pixels": pixels}

    @functools.cache
    def scaler_and_temperature(model: str) -> tuple[Scaler, float]:
        runtime = open_runtime(model, scale=args.scale, **options)
        check_on_gpu(args.device, model, runtime.on_gpu)
        if size and runtime.makes_lr:
            option = "--outscale" if args.outscale else "--size"
            raise UsageError(f"{option}: {model} is a rescaling model, which restores the original size; give another --model")
        temperature = _temperature(args, model, runtime)
        if temperature and runtime.makes_lr:
            work.remark(f"{model} is a rescaling model: --temperature 0 restores, others put chance in the place of details")
        return Scaler(runtime, args.tile), temperature

    if args.model and any(plans):
        scaler_and_temperature(args.model)  # what is wrong with it is told before the first image

    def upscale(item: tuple[inputs.Input, list[pathlib.Path]]) -> batch.Done:
        source, targets = item
        if not targets:
            return batch.Done("skipped: the output exists", skipped=True)
        model = args.model or model_of(source.path, sample=not most_probable)
        scaler, temperature = scaler_and_temperature(model)
        if args.model and (maker := better_model(source.path, model, makes_lr=scaler.runtime.makes_lr)):
            work.remark(f"{source.path}: {maker} made it, and restores it better than {model}")
        writes: list[Future[None]] = []
        made = upscale_file(
            scaler,
            source.path,
            targets[: args.samples],
            temperature=temperature,
            seed=args.seed,
            bits=None if args.bits == "auto" else int(args.bits),
            uncertainty=targets[-1] if args.uncertainty else None,
            max_pixels=args.max_pixels or MAX_PIXELS,
            size=size,
            quality=args.quality,
            strip_metadata=args.strip_metadata,
            remark=work.remark,
            write=lambda *image, **options: writes.append(writer.write(*image, **options)),
        )
        return batch.Done(made.note() if args.model else f"{made.note()}, {model}", targets, made.size, writes=writes)

    with BackgroundWriter() as writer:
        work.run(list(zip(sources, plans, strict=True)), lambda item: str(item[0].path), upscale)
    return work.exit_code


def _outputs(path: pathlib.Path, samples: int, uncertainty: bool) -> list[pathlib.Path]:
    """The samples, then the heat map."""
    images = [path] if samples == 1 else [path.with_stem(f"{path.stem}_{number + 1}") for number in range(samples)]
    return images + ([path.with_name(f"{path.stem}_uncertainty.png")] if uncertainty else [])


def _factor(text: str) -> float:
    """An argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 64:
        raise argparse.ArgumentTypeError(f"expected a number above 0, at most 64, got {text!r}")
    return value


def _box(text: str) -> tuple[int, int]:
    """An argparse type."""
    match = re.fullmatch(r"([1-9]\d{0,5})[xX×]([1-9]\d{0,5})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected width x height, such as 1920x1080, got {text!r}")
    return int(match[1]), int(match[2])


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
