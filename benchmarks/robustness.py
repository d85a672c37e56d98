"""How samples behave on pictures unlike the training photographs: finite, in range, consistent with their LR image.

    python benchmarks/robustness.py --model sr-x4-compact [--hr DIR ...] [--graphics DIR] [--no-guard] [--output table.json]

Kinds of LR pictures, the middle SIDE x SIDE pixels of each: the photographs of --hr, the same with noise of sigma 5 to 50,
after JPEG of quality 20 to 90, and with twice the contrast, clipped; the pictures of --graphics by the kind that their name
says (00_text.png); and checkerboards, stripes, dither, flat and saturated colours made here. For each kind and temperature:
the share of values that are not finite, the share outside [-0.5, 1.5] before clipping, and the consistency, the PSNR of the
sample shrunk by MATLAB's bicubic with its LR image; for each kind, the mean share of its details that is beyond those of
photographs (`hcflow info --model M PICTURE`). Without --hr the photographs that scikit-image ships are taken.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # so that a checkout works without being installed

from hcflow_tf.metrics.table import format_table

TEMPERATURES = (0.0, 0.5, 0.8, 1.0, 1.2)
NOISE, QUALITY = (5, 15, 30, 50), (20, 50, 90)


def main() -> None:
    """Runs the measure and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sr-x4-compact", help="model directory or name")
    parser.add_argument("--hr", nargs="*", default=[], metavar="DIR", help="folders of HR photographs")
    parser.add_argument("--graphics", metavar="DIR", help="folder of HR graphics")
    parser.add_argument("--no-guard", action="store_true", help="without the caps of the standard deviations")
    parser.add_argument("--side", type=int, default=48, help="LR pixels (default 48)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--images", type=int, default=5, help="at most this many of each folder (default 5)")
    parser.add_argument("--temperature", type=float, nargs="+", default=TEMPERATURES)
    parser.add_argument("--output", metavar="FILE", help="the figures as JSON")
    args = parser.parse_args()
    from hcflow_tf.runtimes.keras import KerasRuntime

    runtime, beyond = KerasRuntime(args.model, guard=not args.no_guard), gauge(args.model)
    figures: dict[str, dict[str, Any]] = {}
    for kind, pictures in kinds(args, runtime.scale):
        by_temperature = {tau: measure(runtime, pictures, tau, args.seeds if tau else 1) for tau in args.temperature}
        figures[kind] = {"pictures": len(pictures), "beyond": beyond(pictures), "temperature": by_temperature}
        print(f"{kind}: done", file=sys.stderr)
    rows = [
        [f"{kind} ({of['pictures']})", f"{of['beyond']:.1%}", *map(cell, of["temperature"].values())]
        for kind, of in figures.items()
    ]
    print(format_table(["pictures", "beyond photographs", *(f"temperature {tau}" for tau in args.temperature)], rows))
    if args.output:
        pathlib.Path(args.output).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def cell(figures: dict[str, float]) -> str:
    """Percent not finite / percent outside, consistency."""
    return f"{100 * figures['non_finite']:.3g} / {100 * figures['outside']:.2g}, {figures['consistency']:.1f} dB"


def gauge(model: str) -> Callable[[list[np.ndarray]], float]:
    """Mean share of the pictures' details that is beyond those of photographs."""
    from hcflow_tf.models.guard import measure_caps, sample_lr_images, share_at_caps
    from hcflow_tf.weights.store import load_model

    loaded = load_model(model)
    caps = loaded.log_std_caps or measure_caps(loaded, sample_lr_images(loaded.scale))
    return lambda pictures: float(np.mean([share_at_caps(loaded, caps, picture / np.float32(255)) for picture in pictures]))


def kinds(args: argparse.Namespace, scale: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Name and LR pictures [side, side, 3] uint8 of each kind."""
    from hcflow_tf.data.degradation import degrade
    from hcflow_tf.data.pairs import find_images
    from hcflow_tf.data.samples import held_out_photographs, training_photographs

    files = [path for folder in args.hr for path in find_images(folder)[: args.images]]
    photographs = [lr_of(path, scale, args.side) for path in files or (*training_photographs(), *held_out_photographs())]
    yield "photographs", photographs
    rng = np.random.default_rng(0)
    for sigma in NOISE:
        yield f"noise {sigma}", [clipped(image + rng.normal(0, sigma, image.shape)) for image in photographs]
    for quality in QUALITY:
        yield f"JPEG {quality}", [degrade(image, jpeg=quality) for image in photographs]
    yield "contrast doubled", [clipped(2.0 * image - 127.5) for image in photographs]
    graphics: dict[str, list[np.ndarray]] = {}
    for path in find_images(args.graphics) if args.graphics else ():
        graphics.setdefault(path.stem.replace("_", " ").lstrip("0123456789 "), []).append(lr_of(path, scale, args.side))
    yield from graphics.items()
    y, x = np.mgrid[: args.side, : args.side]
    made = {"checkerboard": (x + y) % 2, "stripes": x % 2, "dither": rng.random(x.shape) < x / args.side}
    for name, mask in made.items():
        yield f"{name} of LR pixels", [np.repeat((255 * mask).astype(np.uint8)[..., None], 3, axis=-1)]
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (127, 127, 127)]
    yield "flat colours", [np.full((args.side, args.side, 3), colour, np.uint8) for colour in colours]


def lr_of(path: pathlib.Path, scale: int, side: int) -> np.ndarray:
    """The middle of a picture, shrunk by MATLAB's bicubic."""
    from hcflow_tf.data.resize import imresize
    from hcflow_tf.images.images import read_image

    hr = read_image(path).rgb_uint8
    height, width = (min(size // scale, side) * scale for size in hr.shape[:2])
    top, left = (hr.shape[0] - height) // 2, (hr.shape[1] - width) // 2
    return imresize(hr[top : top + height, left : left + width], 1 / scale)


def clipped(image: np.ndarray) -> np.ndarray:
    """As uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def measure(runtime, pictures: list[np.ndarray], temperature: float, seeds: int) -> dict[str, float]:
    """Means over pictures and seeds."""
    from hcflow_tf.data.resize import imresize
    from hcflow_tf.metrics.psnr import psnr
    from hcflow_tf.models.latents import draw_latents
    from hcflow_tf.support.latents import latent_shapes

    rows = []
    for picture in pictures:
        lr = np.repeat((picture / np.float32(255))[None].astype(np.float32), seeds, axis=0)
        shapes = latent_shapes(*picture.shape[:2], runtime.scale, runtime.latents)
        latents = [z.numpy() for z in draw_latents(np.arange(seeds), temperature, shapes)]
        decoded = runtime.decode(lr, latents)
        finite = np.isfinite(decoded)
        outside = ~((decoded >= -0.5) & (decoded <= 1.5))
        samples = clipped(255 * np.clip(np.nan_to_num(decoded), 0, 1))
        consistent = [min(psnr(imresize(sample, 1 / runtime.scale), picture), 99.0) for sample in samples]
        rows.append(((~finite).mean(), outside.mean(), np.mean(consistent)))
    non_finite, outside_share, consistency = np.mean(rows, axis=0)
    return {"non_finite": float(non_finite), "outside": float(outside_share), "consistency": float(consistency)}


if __name__ == "__main__":
    main()
