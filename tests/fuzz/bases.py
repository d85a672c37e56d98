"""Small valid image files of every kind that Pillow writes, and a few that it does not: what the lies are made from."""

from __future__ import annotations

import functools
import importlib.util
import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture(height: int = 21, width: int = 30, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """[height, width, channels]: smooth, with a texture that keeps encoders from writing a few bytes only."""
    y, x, c = np.ogrid[:height, :width, :channels]
    texture = np.random.default_rng(7).integers(0, 30, (height, width, channels))
    values = 90 * (1 + np.sin(0.3 * x + 0.2 * y * (c + 1))) + texture
    return np.clip(values, 0, 255).astype(dtype) * (257 if dtype == np.uint16 else 1)


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk with the right checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes, interlace: int = 0) -> bytes:
    """A PNG of these header fields; `rows` are the unfiltered rows with their filter bytes, not yet compressed."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return SIGNATURE + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png16(colour: int, channels: int) -> bytes:
    """A 16-bit PNG."""
    pixels = picture(channels=channels, dtype=np.uint16).astype(">u2")
    return png(30, 21, 16, colour, b"".join(b"\0" + row.tobytes() for row in pixels))


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    """A TIFF by tifffile."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def exif(orientation: object = 6) -> bytes:
    """An EXIF block with an orientation."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


@functools.cache
def new_formats() -> dict[str, bytes]:
    """File name -> content: AVIF, HEIC and JPEG XL (where their extras are installed), and TIFF of many kinds."""
    rgb, rgba = Image.fromarray(picture()), Image.fromarray(picture(channels=4))
    deep, gray = picture(dtype=np.uint16), picture(channels=1)[..., 0]
    files = {
        "rgb.avif": encode(rgb, "AVIF", icc_profile=SRGB),
        "turned.avif": encode(rgba, "AVIF", exif=exif()),
        "white_is_zero.tif": tiff(gray, photometric="miniswhite", compression="lzw"),
        "associated.tif": tiff(picture(channels=4), photometric="rgb", extrasamples=["assocalpha"]),
        "planes.tif": tiff(np.moveaxis(deep, 2, 0), photometric="rgb", planarconfig="separate", compression="zstd"),
        "palette.tif": tiff(gray, photometric="palette", colormap=np.arange(768, dtype=np.uint16).reshape(3, 256) << 6),
        "big_endian.tif": tiff(deep, photometric="rgb", byteorder=">", bigtiff=True, predictor=True, compression="lzma"),
    }
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        files["rgb.heic"] = encode(rgb, "HEIF", quality=60)
    if importlib.util.find_spec("pillow_jxl"):
        import pillow_jxl  # noqa: F401

        files["rgba.jxl"] = encode(rgba, "JXL", lossless=True)
    return files


@functools.cache
def valid() -> dict[str, bytes]:
    """File name -> content, of files that a picture viewer would show."""
    rgb, rgba = Image.fromarray(picture()), Image.fromarray(picture(channels=4))
    gray, cmyk, palette = rgb.convert("L"), rgb.convert("CMYK"), rgb.quantize(16)
    second = Image.fromarray(255 - picture())
    animated = {"save_all": True, "append_images": [second, rgb], "duration": 50}
    original = PngImagePlugin.PngInfo()
    original.add_text("hcflow_original", '{"width": 119, "height": 83, "scale": 4, "gray": false}')
    return {
        "rgb.jpg": encode(rgb, "JPEG", quality=90),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "gray.jpg": encode(gray, "JPEG"),
        "cmyk.jpg": encode(cmyk, "JPEG"),
        "cmyk_profile.jpg": encode(cmyk, "JPEG", icc_profile=SRGB),
        "turned.jpg": encode(rgb, "JPEG", exif=exif(), icc_profile=SRGB),
        "rgb.png": encode(rgb, "PNG"),
        "rgba.png": encode(rgba, "PNG"),
        "bits.png": encode(rgb.convert("1"), "PNG"),
        "palette.png": encode(palette, "PNG", transparency=bytes(range(0, 160, 10))),
        "turned.png": encode(rgb, "PNG", exif=exif(), icc_profile=SRGB),
        "restorable.png": encode(rgb, "PNG", pnginfo=original),
        "gray16.png": png16(0, 1),
        "rgb16.png": png16(2, 3),
        "rgba16.png": png16(6, 4),
        "animated.png": encode(rgb, "PNG", **animated),
        "lossy.webp": encode(rgb, "WEBP"),
        "lossless.webp": encode(rgba, "WEBP", lossless=True),
        "animated.webp": encode(rgb, "WEBP", **animated),
        "turned.webp": encode(rgb, "WEBP", exif=exif(), icc_profile=SRGB),
        "rgb.bmp": encode(rgb, "BMP"),
        "palette.bmp": encode(palette, "BMP"),
        "plain.tif": encode(rgb, "TIFF"),
        "lzw.tif": encode(rgba, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encode(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": encode(rgb, "TIFF", compression="jpeg"),
        "cmyk.tif": encode(cmyk, "TIFF"),
        "pages.tif": encode(rgb, "TIFF", save_all=True, append_images=[second]),
        "float.tif": tiff(picture(channels=1)[..., 0].astype(np.float32)),
        "gray16.tif": tiff(picture(channels=1, dtype=np.uint16)[..., 0]),
        "rgb16.tif": tiff(picture(dtype=np.uint16), photometric="rgb"),
        "deflate16.tif": tiff(picture(dtype=np.uint16), photometric="rgb", compression="zlib", predictor=True),
        "tiled16.tif": tiff(picture(64, 64, dtype=np.uint16), photometric="rgb", tile=(16, 16)),
        "still.gif": encode(palette, "GIF"),
        "animated.gif": encode(rgb, "GIF", **animated),
        **new_formats(),
    }
