"""How a rescaling model's LR images differ from bicubic ones, for its card.

    python docs/results/lr_images.py MODEL [MODEL ...] --hr SET/HR [--refine STEPS]

PSNR of luma and the mean of those of Cb and Cr (BT.601), means over the images; bytes of the LR images as PNG over bicubic's;
and of flat pictures in eight colours, shrunk and restored, the largest error in levels, whole and without the outer 16 pixels.
"""

from __future__ import annotations

import argparse

import numpy as np

from hcflow_tf.data.pairs import find_images
from hcflow_tf.images.images import png_bytes, quantize, read_image
from hcflow_tf.inference.measurement import to_float
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.metrics.table import format_table
from hcflow_tf.runtimes.bicubic import BicubicRuntime
from hcflow_tf.runtimes.open import open_runtime

YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
FLAT = ("0000ff", "00ff00", "ff0000", "ffffff", "000000", "808080", "ffff00", "1ea05a")
SIDE, BORDER = 128, 16


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--hr", required=True, metavar="DIR")
    parser.add_argument("--refine", type=int, default=0, metavar="STEPS", help="see `hcflow downscale`")
    args = parser.parse_args()
    images = [to_float(read_image(path).rgb_uint8) for path in find_images(args.hr)]
    header = ["model", "luma, dB", "chroma, dB", "PNG / bicubic", "flat", "without border"]
    print(format_table(header, [row(model, images, args.refine) for model in args.models]))


def row(model: str, images: list[np.ndarray], refine: int) -> list[str]:
    """The figures of a model."""
    scaler = Scaler(open_runtime(model, refine=refine))
    bicubic, noise, sizes = Scaler(BicubicRuntime(scaler.scale)), [], np.zeros(2)
    for hr in images:
        ours, plain = (quantize(each.downscale(hr)) for each in (scaler, bicubic))
        difference = (ours.astype(float) - plain) @ YCBCR.T
        noise.append(10 * np.log10(255**2 / np.maximum(np.square(difference).mean(axis=(0, 1)), 1e-9)))
        sizes += png_bytes(ours), png_bytes(plain)
    luma, blue, red = np.mean(noise, axis=0)
    whole, inside = np.max([flat_errors(scaler, tuple(bytes.fromhex(colour))) for colour in FLAT], axis=0)
    return [model, f"{luma:.2f}", f"{(blue + red) / 2:.2f}", f"{sizes[0] / sizes[1]:.3f}", str(whole), str(inside)]


def flat_errors(scaler: Scaler, colour: tuple[int, ...]) -> tuple[int, int]:
    """The largest error of a picture of one colour, whole and without its border."""
    flat = np.full((SIDE, SIDE, 3), colour, np.uint8)
    restored = quantize(scaler.upscale(to_float(quantize(scaler.downscale(to_float(flat))))))
    error = np.abs(restored.astype(int) - flat)
    return int(error.max()), int(error[BORDER:-BORDER, BORDER:-BORDER].max())


if __name__ == "__main__":
    main()
