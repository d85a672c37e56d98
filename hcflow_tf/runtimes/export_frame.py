"""What the exports share: options, loading the model, and the check that every export ends with."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hcflow_tf import load_model
from hcflow_tf.support import files
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.quiet import start_tensorflow
from hcflow_tf.weights.store import model_files, read_system

if TYPE_CHECKING:
    from hcflow_tf.models.trained_model import TrainedModel
    from hcflow_tf.runtimes.runtime import Runtime

TEMPERATURE = 0.8
"""Of the latents in the check."""

CHECK_LR_SIZE = (20, 24)
"""Height and width of the LR images in the check, where the export does not fix them."""

MAX_LR_SIDE = 4096
"""Of an export for one size of image."""

FAILED = "the export failed its check and was not written"


@dataclasses.dataclass(frozen=True)
class CheckImage:
    """One image that an export is checked on: what the model makes of it, operation by operation, without folding.

    Attributes:
      name: random image or photograph.
      lr, latents, decoded: input and output of the decoder, batch of one.
      hr, encoded: input and outputs [lr, z_1, z_2, ...] of the encoder; none without one.
      given: what the encoder needs beside hr: its bicubic LR image, for a model that is conditioned on it.
    """

    name: str
    lr: np.ndarray
    latents: list[np.ndarray]
    decoded: np.ndarray
    hr: np.ndarray
    encoded: list[np.ndarray]
    given: dict[str, np.ndarray]


def add_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """Adds --model, --output and --overwrite; `output` says what is written there."""
    parser.add_argument("--model", required=True, help="model directory (trained or converted), or a shipped model's name")
    parser.add_argument("--output", required=True, type=pathlib.Path, help=output)
    parser.add_argument("--overwrite", action="store_true", help="replace what exists there")
    parser.add_argument(
        "--no-guard", action="store_true", help="decode without the caps that keep samples of unusual pictures from exploding"
    )


def lr_size(text: str) -> tuple[int, int]:
    """Parses HxW."""
    height, cross, width = text.lower().partition("x")
    if not (cross and all(side.isdecimal() and 0 < int(side) <= MAX_LR_SIDE for side in (height, width))):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in LR pixels up to {MAX_LR_SIDE}, such as 64x64, got {text!r}")
    return int(height), int(width)


def model_name(directory: pathlib.Path) -> str:
    """The name under which the model is served: that of its directory.

    Raises:
      UsageError: a name that servers' files and addresses cannot hold as it is.
    """
    name = directory.resolve().name
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise UsageError(f"--output {directory}: its name is the served model's, of letters, digits, and . _ - after the first")
    return name


def decoder_files(args: argparse.Namespace) -> list[pathlib.Path]:
    """The file of the decoder and, for a rescaling model, of the encoder beside it.

    Raises:
      HCFlowError: there is no such model.
      UsageError: writing them would destroy something, or another model's encoder would be taken for this one's.
    """
    encoder = files.encoder_path(args.output)
    targets = [args.output, encoder] if read_system(args.model).makes_lr else [args.output]
    files.check_targets(targets, inputs=model_files(args.model), overwrite=args.overwrite, option="--output")
    if encoder not in targets and os.path.lexists(encoder):
        raise UsageError(
            f"--output {args.output}: {encoder} would be taken for its encoder; move that away or choose another --output"
        )
    return targets


def load(args: argparse.Namespace) -> TrainedModel:
    """The model of --model."""
    read_system(args.model)  # what is not there is told before TensorFlow starts
    start_tensorflow()
    from hcflow_tf.models.guard import ensure_guard

    model = load_model(args.model)
    if args.no_guard:
        model.set_guard(None)
    else:
        ensure_guard(model)
    return model


def check_images(
    model: TrainedModel, size: tuple[int, int] = CHECK_LR_SIZE, temperature: float = TEMPERATURE
) -> Iterator[CheckImage]:
    """A random image and a photograph, with the model's results.

    Args:
      size: height and width of the LR image.
      temperature: of the latents.
    """
    from hcflow_tf.data.resize import imresize
    from hcflow_tf.data.samples import held_out_photographs
    from hcflow_tf.images.images import quantize, read_image

    height, width = (side * model.scale for side in size)
    photograph = read_image(held_out_photographs()[0]).rgb_uint8 / np.float32(255)
    repeats = [-(-side // available) for side, available in zip((height, width), photograph.shape, strict=False)]
    photograph = np.tile(photograph, (*repeats, 1))[:height, :width]
    for name, hr in (("random image", np.random.default_rng(0).random((height, width, 3))), ("photograph", photograph)):
        hr = hr.astype(np.float32)
        bicubic = imresize(hr, 1 / model.scale).astype(np.float32)
        given = {"lr": bicubic[None]} if model.flow.needs_lr else {}
        parts = _encoded(model, hr[None], given)
        # As in use: a rescaling model enlarges what it shrank itself, stored in 8 bits.
        lr = parts[0][0] if model.config.makes_lr else bicubic
        lr = (quantize(lr) / np.float32(255))[None]
        latents = [latent.numpy() for latent in model.draw_latents(lr.shape, temperature, seed=1)]
        decoded = model.decode(lr, latents, guard=True).numpy()
        yield CheckImage(name, lr, latents, decoded, hr[None], parts, given)


def rounding(model: TrainedModel, images: Sequence[CheckImage]) -> float:
    """The model's own rounding error: what it gives in float32 against float64, as a share of the largest value."""
    from hcflow_tf.models.systems import make_model

    exact = make_model(model.config, dtype="float64")
    for ours, variable in zip(exact.weights, model.weights, strict=True):
        ours.assign(variable.numpy())
    exact.set_guard(model.log_std_caps)
    errors = []
    for image in images:
        given = {name: value.astype(np.float64) for name, value in image.given.items()}
        encoded = _encoded(exact, image.hr.astype(np.float64), given)
        decoded = exact.decode(image.lr, image.latents, guard=True).numpy()
        pairs = zip([*image.encoded, image.decoded], [*encoded, decoded], strict=True)
        errors += [float(np.abs(ours - value).max() / np.abs(value).max()) for ours, value in pairs]
    return max(errors)


def _encoded(model: TrainedModel, hr: np.ndarray, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the encoder gives, operation by operation; nothing where there is none."""
    if not model.flow.invertible:
        return []
    return [part.numpy() for part in model.flow.forward_and_log_det(hr, **given)[0]]


def check_equal(what: str, ours: np.ndarray, expected: np.ndarray, tolerance: float) -> float:
    """Largest error as a share of the largest expected value.

    Raises:
      HCFlowError: it is above the tolerance, or ours is not finite.
    """
    error = float(np.abs(ours - expected).max() / np.abs(expected).max()) if np.isfinite(ours).all() else np.inf
    if not error <= tolerance:
        raise HCFlowError(f"{FAILED}: {what} is off by {error:.1e} of the largest value, allowed {tolerance:.0e}")
    return error


def check_bytes(what: str, ours: np.ndarray, expected: np.ndarray) -> None:
    """Checks that uint8 values are the expected ones, given in [0, 1], rounded; a hundredth of a level decides no tie.

    Raises:
      HCFlowError: one is not.
    """
    error = np.abs(ours - 255 * np.clip(expected.astype(np.float64), 0, 1)).max()
    if ours.dtype != np.uint8 or ours.shape != expected.shape or not error <= 0.51:
        raise HCFlowError(f"{FAILED}: {what} is off by {error:.2f} of 255 levels before rounding")


def check_psnr(what: str, ours: np.ndarray, expected: np.ndarray, hr: np.ndarray, allowed: float) -> float:
    """Loss of Y-PSNR against hr, dB: that of the model's image minus that of ours, both [1, h, w, 3] and not yet clipped.

    Raises:
      HCFlowError: it is above `allowed`.
    """
    loss = y_psnr(expected, hr) - y_psnr(ours, hr)
    if not loss <= allowed:
        raise HCFlowError(f"{FAILED}: {what} loses {loss:.3f} dB of Y-PSNR, allowed {allowed} dB")
    return loss


def y_psnr(image: np.ndarray, hr: np.ndarray) -> float:
    """PSNR of the luma of two images [1, h, w, 3] in [0, 1], as 8-bit images, dB."""
    from hcflow_tf.images.images import quantize
    from hcflow_tf.metrics.luma import rgb_to_y
    from hcflow_tf.metrics.psnr import psnr

    return psnr(rgb_to_y(quantize(image[0])), rgb_to_y(quantize(hr[0])))


def check_runtime(runtime: Runtime, images: Sequence[CheckImage], tolerance: float) -> float:
    """Compares a runtime's decoder and, where it has one, its encoder with the model; returns the largest error.

    Raises:
      HCFlowError: an error is above the tolerance.
    """
    errors = []
    for image in images:
        decoded = runtime.decode(image.lr, image.latents if runtime.latents else ())
        errors.append(check_equal(f"decode of a {image.name}", decoded, image.decoded, tolerance))
        if runtime.can_encode:
            lr, latents = runtime.encode(image.hr)
            parts = zip((lr, *latents), image.encoded, strict=True)
            errors += [check_equal(f"encode of a {image.name}", ours, expected, tolerance) for ours, expected in parts]
    return max(errors)
