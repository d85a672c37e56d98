"""Measures a model on a folder of HR images: PSNR and SSIM on RGB and Y, and more where it applies.

A super-resolution model restores the LR images of --lr or, without it, MATLAB's bicubic of HR; a rescaling model makes
its own LR images, rounded to 8 bits, and --lr is only what they are compared with. Figures are of 8-bit images after
cropping `scale` pixels at each border, one row per temperature, means over the images; with --samples, means over the
samples, too.

  diversity     standard deviation of the samples per pixel, 0..255 (two samples or more)
  consistency   dB between SR and HR after bicubic downscaling (super-resolution)
  lr_psnr       dB between the encoder's LR image and the true one
  bits_per_dim  cost of coding HR given LR (super-resolution; tiles add up where an image needs them)
"""

from __future__ import annotations

import argparse
import json
import pathlib

from hcflow_tf import batch, cli

DEFAULT_TEMPERATURES = {"super_resolution": [0.0, 0.8], "rescaling": [0.0]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--model", required=True, help="model directory or name, SavedModel, .tflite, .onnx, or bicubic")
    parser.add_argument("--hr", required=True, metavar="DIR", help="folder of HR images")
    parser.add_argument("--lr", metavar="DIR", help="folder of their LR images (same names, or ending in x4)")
    parser.add_argument(
        "--temperature", type=batch.temperature, nargs="+", metavar="T", help="default 0 0.8, for rescaling models 0"
    )
    parser.add_argument("--samples", type=batch.positive_int, default=1, metavar="N", help="images per temperature (default 1)")
    parser.add_argument("--seed", type=batch.seed, default=0, metavar="N", help="of the latents (default 0)")
    parser.add_argument("--output", metavar="report.json", help="write all figures, per image, as JSON")
    parser.add_argument("--save-images", metavar="DIR", help="keep the restored images here")
    batch.add_tile_argument(parser)
    batch.add_scale_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from hcflow_tf.data.pairs import Pair, find_images, pair_names
    from hcflow_tf.files import write_atomically
    from hcflow_tf.inference import evaluation
    from hcflow_tf.inference.runtimes import open_runtime
    from hcflow_tf.inference.scaling import Scaler

    find_images(args.hr)  # a wrong folder is told before the model is loaded
    scaler = Scaler(open_runtime(args.model, scale=args.scale), args.tile)
    pairs = pair_names(args.hr, args.lr, scaler.scale) if args.lr else [Pair(path) for path in find_images(args.hr)]
    _check_outputs(args, pairs)
    temperatures = _temperatures(args, scaler.runtime)
    work, images = batch.Batch("evaluate"), {}

    def evaluate(pair: Pair) -> str:
        by_temperature = _evaluate(scaler, pair, temperatures, args)
        images[pair.hr.name] = by_temperature
        return ", ".join(f"{metrics['psnr_y']:.2f} dB Y at tau {tau}" for tau, metrics in by_temperature.items())

    work.run(pairs, lambda pair: pair.hr.name, evaluate)
    if images:
        report = evaluation.report(args.model, scaler.scale, images) | ({"failed": work.failed} if work.failed else {})
        if args.output:
            write_atomically(args.output, (json.dumps(report, indent=2) + "\n").encode())
        _print_table(report, args.hr)
    return work.exit_code


def _evaluate(scaler, pair, temperatures: list[float], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    from hcflow_tf.data.images import ImageError, write_image
    from hcflow_tf.data.pairs import load_pair
    from hcflow_tf.errors import HCFlowError
    from hcflow_tf.inference.evaluation import Evaluation, min_hr_side

    try:
        hr, lr = load_pair(pair, scaler.scale)
    except ImageError:
        raise
    except HCFlowError as error:
        raise HCFlowError(f"{error}; {args.model} is for x{scaler.scale}") from error
    if min(hr.shape[:2]) < min_hr_side(scaler.scale):
        raise ImageError(f"{pair.hr}: {hr.shape[1]} x {hr.shape[0]} pixels are too few to measure at x{scaler.scale}")
    evaluation, by_temperature = Evaluation(scaler, hr, lr, seed=args.seed), {}
    for temperature in temperatures:
        restored, by_temperature[str(temperature)] = evaluation.sample(temperature, args.samples)
        for number, image in enumerate(restored if args.save_images else (), start=1):
            name = f"{pair.hr.stem}_tau{temperature}" + (f"_{number}" if len(restored) > 1 else "")
            write_image(pathlib.Path(args.save_images) / f"{name}.png", image)
    return by_temperature


def _temperatures(args: argparse.Namespace, runtime) -> list[float]:
    from hcflow_tf.errors import UsageError

    if not runtime.latent_channels:
        if any(args.temperature or ()):
            raise UsageError(f"{args.model} takes no latents: it has no temperature but 0")
        return [0.0]
    return list(dict.fromkeys(args.temperature or DEFAULT_TEMPERATURES[runtime.task]))


def _check_outputs(args: argparse.Namespace, pairs: list) -> None:
    """Nothing measured may be overwritten by what is saved."""
    from hcflow_tf.errors import UsageError

    inputs = {path.parent.resolve() for pair in pairs for path in (pair.hr, pair.lr) if path}
    if args.save_images and pathlib.Path(args.save_images).resolve() in inputs:
        raise UsageError(f"--save-images {args.save_images}: is a folder of input images; choose another")


def _print_table(report: dict, folder: str) -> None:
    from hcflow_tf.metrics.table import metrics_table

    print(f"{report['model']} x{report['scale']}, mean of {len(report['images'])} images in {folder}")
    print(metrics_table(report["mean"]["temperature"], label="temperature"))


if __name__ == "__main__":
    raise SystemExit(cli.execute("evaluate"))
