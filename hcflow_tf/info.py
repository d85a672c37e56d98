"""Tells what a model is and costs: parameters, multiply-adds, memory, receptive field.

Multiply-adds are those of convolutions and 1x1 matrices; decoding and encoding do the same ones. The receptive field is
the bound that the layers give; what reaches far is faint.
"""

from __future__ import annotations

import argparse

from hcflow_tf.support import cli
from hcflow_tf.support.files import expand_user


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--model", help="model directory or name, SavedModel, .tflite, .onnx, or bicubic")
    group.add_argument("--config", metavar="C.yaml|NAME", help="a training config")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from hcflow_tf.config import load_config
    from hcflow_tf.weights.store import read_model, weight_shapes

    if args.config:
        config = load_config(args.config).model
        _print_network(config, weight_shapes(config))
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
    print(
        f"{config.task} x{config.scale}: L {config.levels}, K {config.main_steps}, P {config.conditional_steps}, "
        f"widths {config.main_width} and {config.conditional_width}, RRDB blocks {'+'.join(map(str, config.rrdb_blocks))}, "
        f"features {config.rrdb_features}, growth {config.rrdb_growth}"
    )
    print(_cost_table(cost, config.scale))
    print(f"downscaling alone: {cost.downscale_multiply_adds:,.0f} multiply-adds per HR pixel")
    print(
        f"receptive field: decoding, {2 * cost.decode_radius + 1} LR pixels wide; "
        f"the encoder's LR image, {2 * cost.downscale_radius + config.scale} HR pixels wide"
    )
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
