"""Tells what a model is and costs: parameters, multiply-adds, memory, receptive field; of LR pictures, whether it knows such.

Multiply-adds are those of convolutions and 1x1 matrices; decoding and encoding do the same ones. The receptive field is
the bound that the layers give; what reaches far is faint.

With pictures, of each: how many of the standard deviations that the model gives its details are above what 99 of 100 have
on photographs. Photographs have 0 to 5 %, text and sharp graphics 5 to 30, noise and dither up to 100: the more, the less
its samples are to be believed. (bits_per_dim of `hcflow evaluate` says how well it knows a picture whose HR image is there.)
"""

from __future__ import annotations

import argparse

import numpy as np

from hcflow_tf.support import cli
from hcflow_tf.support.files import expand_user
from hcflow_tf.support.quiet import start_tensorflow

PARTLY_UNLIKE, UNLIKE = 0.05, 0.3
"""Shares from which a picture is called so; docs/usage.md has those of photographs and other pictures."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--model", help="model directory or name, SavedModel, .tflite, .onnx, or bicubic")
    group.add_argument("--config", metavar="C.yaml|NAME", help="a training config")
    parser.add_argument("picture", nargs="*", metavar="PICTURE", help="LR pictures or folders of them, for --model")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if args.picture:
        return _gauge(args)
    _describe(args)
    return 0


def _gauge(args: argparse.Namespace) -> int:
    """Says of each picture how much of it is unlike photographs; names those that cannot be read, and goes on."""
    from hcflow_tf.images.batch import Batch
    from hcflow_tf.images.formats import ImageError
    from hcflow_tf.images.images import read_image
    from hcflow_tf.images.inputs import find_inputs
    from hcflow_tf.runtimes.open import is_model_directory
    from hcflow_tf.support.errors import UsageError

    if args.config or not is_model_directory(args.model):
        raise UsageError("PICTURE: give --model with a model directory or the name of a shipped model")
    work = Batch("info")
    pictures = find_inputs(args.picture, work)
    if not pictures:
        return work.exit_code
    start_tensorflow()
    from hcflow_tf.models.guard import measure_caps, sample_lr_images, share_at_caps
    from hcflow_tf.weights.store import load_model

    model = load_model(args.model)
    if model.config.makes_lr or not model.flow.has_gaussians:
        raise UsageError(f"{args.model}: only a conditional super-resolution model can say how well it knows a picture")
    caps = model.log_std_caps or measure_caps(model, sample_lr_images(model.scale))
    for picture in pictures:
        try:
            share = share_at_caps(model, caps, read_image(picture.path).rgb_uint8 / np.float32(255))
        except ImageError as error:
            work.complain(error)
        else:
            print(f"{picture.path}: {share:.1%} of its details are beyond those of photographs: {_verdict(share)}")
    return work.exit_code


def _verdict(share: float) -> str:
    """In words."""
    if share < PARTLY_UNLIKE:
        return "as photographs are"
    if share < UNLIKE:
        return "partly unlike them (noise, text or sharp graphics); a lower --temperature is safer"
    return "unlike them (noise, dither or pixel art); take temperature 0, and remove noise first"


def _describe(args: argparse.Namespace) -> None:
    from hcflow_tf.config import load_config
    from hcflow_tf.weights.store import read_model, weight_shapes

    if args.config:
        section = load_config(args.config).model
        _print_network(section, weight_shapes(section))
        return
    from hcflow_tf.runtimes.open import is_model_directory

    if is_model_directory(args.model):
        config, weights = read_model(args.model)
        _print_network(config, {name: array.shape for name, array in weights.items()})
    else:
        _print_runtime(args.model)


def _print_network(config, shapes: dict) -> None:
    from hcflow_tf.models.complexity import measure

    cost = measure(config, shapes)
    size = "; ".join(f"{what} {how_much}" for what, how_much in config.describe().items())
    print(f"{config.system}, {config.task} x{config.scale}: {size}")
    print(_cost_table(cost, config.scale))
    receptive_field = f"receptive field: decoding, {2 * cost.decode_radius + 1} LR pixels wide"
    if cost.downscale_multiply_adds:
        print(f"downscaling alone: {cost.downscale_multiply_adds:,.0f} multiply-adds per HR pixel")
        receptive_field += f"; the encoder's LR image, {2 * cost.downscale_radius + config.scale} HR pixels wide"
    print(receptive_field)
    per_hr = cost.decode_bytes / config.scale**2
    print(
        f"memory, decoding in one piece, estimated: {cost.decode_bytes * 1e6 / 2**30:.1f} GiB per megapixel of LR, "
        f"{per_hr * 1e6 / 2**30:.2f} GiB per megapixel of HR; tiles take less"
    )


def _cost_table(cost, scale: int) -> str:
    from hcflow_tf.metrics.table import format_table

    rows = [(part, cost.parameters[part], cost.multiply_adds[part]) for part in cost.parameters]
    rows.append(("total", sum(cost.parameters.values()), sum(cost.multiply_adds.values())))
    return format_table(
        ["part", "parameters", "multiply-adds per HR pixel", "per LR pixel"],
        [[part, f"{count:,}", f"{adds:,.0f}", f"{adds * scale**2:,.0f}"] for part, count, adds in rows],
    )


def _print_runtime(name: str) -> None:
    """What an exported file or the baseline tells of itself."""
    from hcflow_tf.runtimes.open import open_runtime

    runtime, path = open_runtime(name), expand_user(name)
    print(f"{'rescaling' if runtime.makes_lr else 'super_resolution'} x{runtime.scale}: {name}")
    if path.exists():
        files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
        print(f"size on disk: {sum(entry.stat().st_size for entry in files) / 2**20:.1f} MiB")
    size = "any" if runtime.fixed_lr_size is None else "{} x {} (height x width), tiled".format(*runtime.fixed_lr_size)
    print(f"LR size: {size}")
    print(f"latent channels: {', '.join(map(str, runtime.latent_channels)) or 'none, temperature 0 only'}")
    print(f"encoder: {'yes' if runtime.can_encode else 'no'}; likelihood: {'yes' if runtime.has_likelihood else 'no'}")


if __name__ == "__main__":
    raise SystemExit(cli.execute("info"))
