"""Image file in, image file out: bit depth, gray, transparency, colour profile, original size, uncertainty."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hcflow_tf.data.resize import imresize, imresize_to
from hcflow_tf.images.alpha import bleed
from hcflow_tf.images.images import (
    ImageError,
    LoadedImage,
    check_writable,
    png_bytes,
    quantize,
    read_header,
    read_image,
    write_image,
)
from hcflow_tf.images.metadata import Metadata
from hcflow_tf.images.write import holds_16_bit, lost_metadata
from hcflow_tf.inference.heat_map import Spread, heat_map
from hcflow_tf.inference.scaling import Scaler, pad_to_multiple
from hcflow_tf.runtimes.bicubic import BICUBIC, BicubicRuntime
from hcflow_tf.support.errors import complain
from hcflow_tf.weights.shipped import DEFAULT_MODEL, list_models

MAX_PIXELS = 2**29
"""Default cap on the pixels of the larger image, read or written (537 megapixels)."""

ORIGINAL_KEY = "hcflow_original"
"""PNG text entry of a downscaled image: JSON with width, height, scale and gray of the image it was made from."""

MODEL_KEY = "hcflow_model"
"""PNG text entry of a downscaled image: the name of the shipped model that made it, "bicubic" or "other"."""


@dataclasses.dataclass(frozen=True)
class Original:
    """What a downscaled file says of the image it was made from."""

    width: int
    height: int
    scale: int
    gray: bool

    def to_text(self) -> dict[str, str]:
        """As PNG text entries."""
        return {ORIGINAL_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_text(cls, text: Mapping[str, str], lr_size: tuple[int, int], scale: int) -> Original | None:
        """The entry, if there is one and it fits an LR image of this height and width at this scale."""
        try:
            original = cls(**json.loads(text[ORIGINAL_KEY]))
            if any(type(value) is not int for value in (original.width, original.height, original.scale)):
                return None
            expected = tuple(-(-side // scale) for side in (original.height, original.width))
        except (KeyError, ValueError, TypeError, RecursionError):
            return None
        return original if original.scale == scale and expected == tuple(lr_size) else None


def _say(text: str) -> None:
    complain("hcflow: note", text)


def model_of(source: str | os.PathLike, *, sample: bool) -> str:
    """The shipped model that is to upscale a file: the one that `downscale_file` says made it, else the default.

    Args:
      source: the file.
      sample: whether samples are asked for, not the most probable image.

    Raises:
      ImageError: the file cannot be read, or a model that does not ship made it.
    """
    made_by = maker_of(source)
    if made_by == BICUBIC:
        return DEFAULT_MODEL["sample" if sample else "upscale"]
    if made_by not in list_models():
        raise ImageError(f"{source}: was downscaled by a model that does not ship with this program; give it as --model")
    return made_by


def better_model(source: str | os.PathLike, model: str, *, makes_lr: bool) -> str | None:
    """The shipped model that made a file, if it restores it better than this one: if one of the two is a rescaling model.

    Args:
      source: the file.
      model: a name or a path; of a path it is not known what it is.
      makes_lr: whether that is a rescaling model.

    Raises:
      ImageError: the file cannot be read.
    """
    made_by, shipped = maker_of(source), list_models()
    if model not in shipped or made_by not in shipped or made_by == model:
        return None
    from hcflow_tf.weights.store import read_system

    return made_by if makes_lr or read_system(made_by).makes_lr else None


def maker_of(source: str | os.PathLike) -> str:
    """What `downscale_file` wrote of the model that made a file; "bicubic" where it wrote nothing.

    Raises:
      ImageError: the file cannot be read.
    """
    return read_header(source).text.get(MODEL_KEY, BICUBIC)


@dataclasses.dataclass(frozen=True)
class Size:
    """The size that a result is to have, other than the model's scale gives."""

    outscale: float | None = None
    """Times the input's width and height."""
    box: tuple[int, int] | None = None
    """Width and height into which the result is to fit, its aspect kept."""

    def of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the result of an input of this size; at least a pixel each."""
        factor = self.outscale or min(side / own for side, own in zip(self.box or (width, height), (width, height), strict=True))
        return max(1, round(width * factor)), max(1, round(height * factor))


@dataclasses.dataclass(frozen=True)
class Upscaled:
    """What `upscale_file` made."""

    input_size: tuple[int, int]
    """Width and height."""
    size: tuple[int, int]
    remark: str = ""

    def note(self) -> str:
        """As text, such as "480 x 320 -> 1920 x 1280"."""
        return "{} x {} -> {} x {}".format(*self.input_size, *self.size) + self.remark


def upscale_file(
    scaler: Scaler,
    source: str | os.PathLike,
    targets: Sequence[pathlib.Path],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    bits: int | None = None,
    uncertainty: pathlib.Path | None = None,
    max_pixels: int = MAX_PIXELS,
    size: Size | None = None,
    quality: int | None = None,
    strip_metadata: bool = False,
    remark: Callable[[str], None] = _say,
    write: Callable[..., object] = write_image,
) -> Upscaled:
    """Upscales one file; sample i, drawn with seed + i, goes to targets[i].

    The EXIF orientation is applied, a colour profile kept, transparency enlarged by bicubic (what is hidden
    under it does not reach what one sees), gray stays gray. A file that `downscale_file` made gets its original size back.

    Args:
      bits: 8 or 16; None as the source, 8 where the target's format cannot hold 16.
      uncertainty: PNG for the heat map of the samples' standard deviation; needs at least two targets.
      max_pixels: cap on the output.
      size: of the result, by MATLAB's bicubic from the model's scale; None for the model's scale.
      quality: of lossy formats; see `write_image`.
      strip_metadata: whether EXIF, XMP, IPTC and resolution are dropped.
      remark: is told what of the source is left out.
      write: `write_image`, or what takes its arguments and writes later (`BackgroundWriter.write`).

    Raises:
      ImageError: the source cannot be read, or its output would exceed the cap.
      HCFlowError: a target cannot be written, out of memory.
    """
    _check_output_size(source, scaler.scale, size, max_pixels)
    image = _read(source, remark)
    lr = _to_float(bleed(image.rgb, image.alpha))
    original = Original.from_text(image.text, lr.shape[:2], scaler.scale)
    height, width = (original.height, original.width) if original else (side * scaler.scale for side in lr.shape[:2])
    final = size.of(lr.shape[1], lr.shape[0]) if size else (width, height)
    for target in targets:
        depth = _bits_of(target, image, bits)
        check_writable(target, bit_depth=depth, alpha=image.alpha is not None, side=max(final))
    metadata = Metadata() if strip_metadata else image.metadata.of_result(*final)
    for lost in lost_metadata(targets[0], metadata, image.icc_profile):
        remark(f"{source}: {lost} dropped, for which {targets[0].suffix} files have no place")
    gray = image.is_gray or (original is not None and original.gray)
    alpha = None
    if image.alpha is not None:
        alpha = imresize_to(image.alpha, *final[::-1]) if size else imresize(image.alpha, scaler.scale)[:height, :width]
    spread = Spread()
    for index, target in enumerate(targets):
        hr = scaler.upscale(lr, temperature, seed + index)[:height, :width]
        if final != (width, height):
            hr = imresize_to(hr, *final[::-1]).astype(np.float32)
        if gray:
            hr = _to_gray(hr)
        depth = _bits_of(target, image, bits)
        write(
            target,
            quantize(hr, depth),
            alpha=None if alpha is None else _to_bits(alpha, depth),
            icc_profile=image.icc_profile,
            metadata=metadata,
            quality=quality,
        )
        if uncertainty:
            spread.add(hr)
    map_note = f", {_write_heat_map(uncertainty, spread, write)}" if uncertainty else ""
    return Upscaled((lr.shape[1], lr.shape[0]), final, map_note)


@dataclasses.dataclass(frozen=True)
class Downscaled:
    """What `downscale_file` made: sizes (width, height), and bytes of the LR image as PNG without metadata."""

    original: tuple[int, int]
    size: tuple[int, int]
    png_bytes: int
    bicubic_bytes: int
    """Of MATLAB's bicubic LR image."""

    def note(self) -> str:
        """As text, such as "1920 x 1280 -> 480 x 320, 212,345 bytes, bicubic 201,222 (+5.5 %)"."""
        sizes = "{} x {} -> {} x {}".format(*self.original, *self.size)
        return f"{sizes}, {compare_bytes(self.png_bytes, self.bicubic_bytes)}"


def compare_bytes(ours: int, bicubic: int) -> str:
    """Two sizes of PNG files in words."""
    return f"{ours:,} bytes, bicubic {bicubic:,} ({100 * (ours / bicubic - 1):+.1f} %)"


def downscale_file(
    scaler: Scaler,
    source: str | os.PathLike,
    target: pathlib.Path,
    *,
    max_pixels: int = MAX_PIXELS,
    strip_metadata: bool = False,
    remark: Callable[[str], None] = _say,
) -> Downscaled:
    """Downscales one file to an 8-bit PNG; its text entries let `upscale_file` restore the original size.

    Of a gray image the LR image of a rescaling model is tinted by a level or two, which carries details; `upscale_file` makes it
    gray again. Without the tint it would be restored worse than super-resolution restores bicubic's.

    Args:
      max_pixels: cap on the source.
      strip_metadata: whether EXIF, XMP and resolution are dropped.
      remark: is told what of the source is left out.

    Raises:
      ImageError: the source cannot be read.
      HCFlowError: the target cannot be written, out of memory, or the runtime has no encoder.
    """
    image = _read(source, remark, max_pixels=max_pixels)
    height, width = image.rgb.shape[:2]
    original = Original(width, height, scaler.scale, image.is_gray)
    hr = _to_float(bleed(image.rgb, image.alpha))
    lr = scaler.downscale(hr)
    lr = quantize(_to_gray(lr) if original.gray and not scaler.runtime.makes_lr else lr)
    alpha = None
    if image.alpha is not None:
        alpha = _to_bits(imresize(pad_to_multiple(image.alpha, scaler.scale), 1 / scaler.scale), 8)
    model = scaler.runtime.name
    text = original.to_text() | {MODEL_KEY: model if model in (BICUBIC, *list_models()) else "other"}
    metadata = Metadata() if strip_metadata else image.metadata.of_result(lr.shape[1], lr.shape[0])
    write_image(target, lr, alpha=alpha, icc_profile=image.icc_profile, text=text, metadata=metadata)
    bicubic = quantize(Scaler(BicubicRuntime(scaler.scale)).downscale(hr))
    return Downscaled((width, height), (lr.shape[1], lr.shape[0]), png_bytes(lr), png_bytes(bicubic))


def _read(source: str | os.PathLike, remark: Callable[[str], None], **options: int) -> LoadedImage:
    """Reads an image and says what of it is left out."""
    image = read_image(source, **options)
    for note in image.notes:
        remark(f"{source}: {note}")
    return image


def _bits_of(target: pathlib.Path, image: LoadedImage, bits: int | None) -> int:
    return bits or (image.bit_depth if holds_16_bit(target) else 8)


def _check_output_size(source: str | os.PathLike, scale: int, size: Size | None, max_pixels: int) -> None:
    header = read_header(source)
    sizes = [(header.width * scale, header.height * scale)] + ([size.of(*header.size)] if size else [])
    width, height = max(sizes, key=lambda sides: sides[0] * sides[1])
    if width * height > max_pixels:
        raise ImageError(
            f"{source}: {width} x {height} pixels after upscaling are more than the cap of {max_pixels:,} pixels (--max-pixels)"
        )


def _to_float(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.float32) / np.float32(np.iinfo(rgb.dtype).max)


def _to_gray(image: np.ndarray) -> np.ndarray:
    return np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)


def _to_bits(channel: np.ndarray, bits: int) -> np.ndarray:
    """uint8 or uint16 as `bits` bits."""
    if channel.dtype.itemsize * 8 == bits:
        return channel
    return channel.astype(np.uint16) * 257 if bits == 16 else ((channel.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _write_heat_map(path: pathlib.Path, spread: Spread, write: Callable[..., object]) -> str:
    deviation = spread.deviation()
    top = float(np.percentile(deviation, 99.9))
    write(path, heat_map(deviation, top), text={"hcflow_uncertainty": f"brightest = {top:.2f} of 255"})
    return f"standard deviation {deviation.mean():.2f}, brightest {top:.2f} of 255"
