"""Measures a model on a folder of HR images: PSNR and SSIM on RGB and Y (or what --metrics names), and more where it applies.

A super-resolution model restores the LR images of --lr or, without it, MATLAB's bicubic of HR; a rescaling model makes
its own LR images, rounded to 8 bits, and --lr is only what they are compared with. Figures are of 8-bit images after
cropping `scale` pixels at each border, one row per temperature, means over the images; with --samples, means over the
samples, too. LPIPS, NIQE and BRISQUE are of the whole image (niqe_y: of Y, cropped), the last two without the HR image; an
image that has no such figure, because it is too small or constant, is named, and counts with its other figures.

The images of another program are measured with --images DIR in place of --model: matched with those of --hr by name (the
same stem, or that and a suffix such as x4 or _out), and of the same size. With --lr, the LR images that it was given:

  ntire_lr_psnr dB between SR after bicubic downscaling and the LR image

Of models:

  diversity     standard deviation of the samples per pixel, 0..255 (two samples or more)
  consistency   dB between SR and HR after bicubic downscaling (super-resolution)
  lr_psnr       dB between the encoder's LR image and the true one
  ntire_diversity, ntire_lr_psnr
                the figures of the NTIRE 2021 challenge, from several samples with --metrics lpips (super-resolution)
  bits_per_dim  cost of coding HR given LR (super-resolution; tiles add up where an image needs them)
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
from collections.abc import Callable

from hcflow_tf.images import batch
from hcflow_tf.support import cli

DEFAULT_TEMPERATURES, DEFAULT_OWN_LR_TEMPERATURES = [0.0, 0.8], [0.0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="model directory or name, SavedModel, .tflite, .onnx, or bicubic")
    what.add_argument("--images", metavar="DIR", help="folder of images that another program has restored")
    parser.add_argument("--hr", required=True, metavar="DIR", help="folder of HR images")
    parser.add_argument("--lr", metavar="DIR", help="folder of their LR images (same names, or ending in x4)")
    parser.add_argument(
        "--temperature", type=batch.temperature, nargs="+", metavar="T", help="default 0 0.8, for rescaling models 0"
    )
    parser.add_argument("--samples", type=batch.positive_int, metavar="N", help="images per temperature (default 1)")
    known = "psnr ssim (default), lpips, lpips_vgg, niqe, niqe_y, brisque"
    parser.add_argument("--metrics", nargs="+", metavar="NAME", default=["psnr", "ssim"], help=known)
    parser.add_argument(
        "--lpips-weights",
        nargs="+",
        default=[],
        metavar="FILE",
        help="torchvision's alexnet-owt-7be5be79.pth (lpips), vgg16-397923af.pth (lpips_vgg); else downloaded once",
    )
    parser.add_argument("--seed", type=batch.seed, metavar="N", help="of the latents (default 0)")
    parser.add_argument("--no-likelihood", action="store_true", help="leave bits_per_dim out; it takes a pass of the encoder")
    parser.add_argument("--output", metavar="report.json", help="write all figures, per image, as JSON")
    parser.add_argument("--save-images", metavar="DIR", help="keep the restored images here")
    batch.add_overwrite_argument(parser)
    batch.add_tile_argument(parser)
    batch.add_scale_argument(parser, of="--model bicubic or --images")
    batch.add_guard_argument(parser)
    batch.add_engine_arguments(parser)
    batch.add_refine_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from hcflow_tf.data.pairs import Pair, find_images, pair_names
    from hcflow_tf.inference import evaluation
    from hcflow_tf.inference.scaling import Scaler
    from hcflow_tf.runtimes.open import open_runtime
    from hcflow_tf.support.files import write_atomically

    find_images(args.hr)  # a wrong folder is told before the model is loaded
    _check_metrics(args)
    if args.images is not None:
        return _run_on_images(args)
    args.samples, args.seed = args.samples or 1, args.seed or 0
    options = {"guard": not args.no_guard, "engine": args.runtime, "precision": args.precision, "refine": args.refine}
    scaler = Scaler(open_runtime(args.model, scale=args.scale, **options), args.tile)
    pairs = pair_names(args.hr, args.lr, scaler.scale) if args.lr else [Pair(path) for path in find_images(args.hr)]
    temperatures = _temperatures(args, scaler.runtime)
    _check_outputs(args, pairs, temperatures)
    work, images = batch.Batch("evaluate"), {}

    def evaluate(pair: Pair) -> str:
        by_temperature = _evaluate(scaler, pair, temperatures, args, work.remark)
        images[pair.hr.name] = by_temperature
        return ", ".join(f"{_note(metrics)} at tau {tau}" for tau, metrics in by_temperature.items())

    work.run(pairs, lambda pair: pair.hr.name, evaluate)
    if images:
        report = evaluation.report(args.model, scaler.scale, images) | ({"failed": work.failed} if work.failed else {})
        report["settings"] = _settings(args, scaler.runtime)
        if args.output:
            write_atomically(args.output, (json.dumps(report, indent=2) + "\n").encode())
        _print_table(report, args.hr)
    return work.exit_code


def _run_on_images(args: argparse.Namespace) -> int:
    """Measures the images of another program."""
    from hcflow_tf.inference.evaluation import output_report
    from hcflow_tf.inference.outputs import match_outputs, measure_output
    from hcflow_tf.metrics.table import metrics_table
    from hcflow_tf.support.errors import UsageError
    from hcflow_tf.support.files import check_targets, write_atomically

    for option in ("temperature", "samples", "seed", "save_images", "tile", "no_guard", "no_likelihood"):
        if getattr(args, option) is not None and getattr(args, option) is not False:
            raise UsageError(f"--{option.replace('_', '-')} is for --model; --images has one image per HR image, made already")
    if args.refine:
        raise UsageError("--refine is for --model; the images of --images are made already")
    if args.runtime != "auto" or args.precision != "float32":
        raise UsageError("--runtime and --precision are for --model; the images of --images are made already")
    scale = args.scale or 4
    outputs = match_outputs(args.images, args.hr, args.lr, scale)
    if args.output:
        inputs = [path for output in outputs for path in (output.sr, output.pair.hr, output.pair.lr) if path]
        check_targets([args.output], inputs=inputs, overwrite=args.overwrite, option="--output")
    work, images = batch.Batch("evaluate"), {}

    def measure(output) -> str:
        images[output.pair.hr.name] = measure_output(
            output, scale, args.metrics, args.lpips, lambda what: work.remark(f"{output.sr}: {what}")
        )
        return _note(images[output.pair.hr.name])

    work.run(outputs, lambda output: output.sr.name, measure)
    if images:
        report = output_report(args.images, scale, images) | ({"failed": work.failed} if work.failed else {})
        report["settings"] = {"hr": args.hr, "lr": args.lr}
        if args.output:
            write_atomically(args.output, (json.dumps(report, indent=2) + "\n").encode())
        print(f"{args.images} x{scale}, {len(images)} images against {args.hr}")
        print(metrics_table({"mean": report["mean"]}, label=""))
        _print_counts(list(images.values()), "")
    return work.exit_code


def _settings(args: argparse.Namespace, runtime) -> dict[str, object]:
    """What the figures depend on beside the model and the images."""
    return {
        "hr": args.hr,
        "lr": args.lr or "MATLAB's bicubic",
        "decodes_its_own_lr": runtime.makes_lr,
        "samples": args.samples,
        "seed": args.seed,
        "tile": "auto" if args.tile is None else args.tile,
        "guard": not args.no_guard,
        "runtime": args.runtime,
        "precision": args.precision,
        "refine": args.refine,
    }


def _evaluate(
    scaler, pair, temperatures: list[float], args: argparse.Namespace, remark: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    from hcflow_tf.data.pairs import load_pair
    from hcflow_tf.images.images import ImageError, write_image
    from hcflow_tf.inference.evaluation import Evaluation
    from hcflow_tf.inference.measurement import check_measurable
    from hcflow_tf.support.errors import HCFlowError

    try:
        hr, lr = load_pair(pair, scaler.scale)
    except ImageError:
        raise
    except HCFlowError as error:
        raise HCFlowError(f"{error}; {args.model} is for x{scaler.scale}") from error
    check_measurable(pair.hr, hr, scaler.scale)
    options = {"metrics": args.metrics, "lpips": args.lpips, "likelihood": not args.no_likelihood}
    undefined = functools.cache(lambda what: remark(f"{pair.hr}, restored: {what}"))  # once, however many samples lack it
    evaluation, by_temperature = Evaluation(scaler, hr, lr, seed=args.seed, undefined=undefined, **options), {}
    for temperature in temperatures:
        restored, by_temperature[str(temperature)] = evaluation.sample(temperature, args.samples)
        if args.save_images:
            for target, image in zip(_saved(args, pair, temperature), restored, strict=True):
                write_image(target, image)
    return by_temperature


def _check_metrics(args: argparse.Namespace) -> None:
    """Replaces the names of weight files by what they measure."""
    from hcflow_tf.metrics.lpips import open_lpips
    from hcflow_tf.metrics.report import METRICS
    from hcflow_tf.support.errors import UsageError

    for name in args.metrics:
        if name not in METRICS:
            raise UsageError(f"--metrics {name}: there is no such metric; known: {', '.join(METRICS)}")
    args.lpips = open_lpips(args.metrics, args.lpips_weights)


def _note(figures: dict[str, float]) -> str:
    """The first figure that a reader looks for."""
    if "psnr_y" in figures:
        return f"{figures['psnr_y']:.2f} dB Y"
    from hcflow_tf.metrics.table import format_metric

    return next((f"{name} {format_metric(name, value)}" for name, value in figures.items()), "no figure")


def _temperatures(args: argparse.Namespace, runtime) -> list[float]:
    from hcflow_tf.support.errors import UsageError

    if not runtime.latent_channels:
        if any(args.temperature or ()):
            raise UsageError(f"{args.model} takes no latents: it has no temperature but 0")
        return [0.0]
    return list(dict.fromkeys(args.temperature or (DEFAULT_OWN_LR_TEMPERATURES if runtime.makes_lr else DEFAULT_TEMPERATURES)))


def _saved(args: argparse.Namespace, pair, temperature: float) -> list[pathlib.Path]:
    """The files of --save-images for one image and temperature; at temperature 0 all samples are the same."""
    count = 1 if temperature == 0 else args.samples
    names = [f"{pair.hr.stem}_tau{temperature}" + (f"_{number + 1}" if count > 1 else "") for number in range(count)]
    return [pathlib.Path(args.save_images) / f"{name}.png" for name in names]


def _check_outputs(args: argparse.Namespace, pairs: list, temperatures: list[float]) -> None:
    """Nothing that is measured, and nothing that exists, may be overwritten by what is saved."""
    from hcflow_tf.support.errors import UsageError
    from hcflow_tf.support.files import check_targets
    from hcflow_tf.weights.store import model_files

    inputs = [path for pair in pairs for path in (pair.hr, pair.lr) if path]
    targets: list[pathlib.Path] = []
    if args.save_images:
        folders = {os.path.realpath(path.parent) for path in inputs}
        if os.path.realpath(args.save_images) in folders:
            raise UsageError(f"--save-images {args.save_images}: is a folder of input images; choose another")
        sources: dict[pathlib.Path, pathlib.Path] = {}
        for pair in pairs:
            for target in _saved(args, pair, temperatures[0]):
                if target in sources:
                    raise UsageError(f"{sources[target]} and {pair.hr} would both be written to {target}; rename one")
                sources[target] = pair.hr
        targets = [target for pair in pairs for tau in temperatures for target in _saved(args, pair, tau)]
        check_targets(targets, inputs=[*inputs, *model_files(args.model)], overwrite=args.overwrite, option="--save-images")
    if args.output:
        inputs += model_files(args.model)
        check_targets([args.output], inputs=inputs, overwrite=args.overwrite, option="--output")
        if os.path.realpath(args.output) in map(os.path.realpath, targets):
            raise UsageError(f"--output {args.output}: is one of the images of --save-images; choose another")


def _print_table(report: dict, folder: str) -> None:
    from hcflow_tf.metrics.table import metrics_table

    refined = f", {steps} steps of refinement" if (steps := report["settings"]["refine"]) else ""
    print(f"{report['model']} x{report['scale']}{refined}, mean of {len(report['images'])} images in {folder}")
    print(metrics_table(report["mean"]["temperature"], label="temperature"))
    for temperature in report["mean"]["temperature"]:
        _print_counts([image["temperature"][temperature] for image in report["images"].values()], f" at {temperature}")


def _print_counts(rows: list[dict[str, float]], where: str) -> None:
    """Says which means are not of all images."""
    for name in dict.fromkeys(name for row in rows for name in row):
        count = sum(name in row for row in rows)
        if count < len(rows):
            print(f"{name}{where}: of {count} of {len(rows)} images")


if __name__ == "__main__":
    raise SystemExit(cli.execute("evaluate"))
