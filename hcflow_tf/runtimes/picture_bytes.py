"""PNG and JPEG files inside a served graph: decoded as `read_image` reads them, or refused.

TensorFlow's decoders know no orientation, transparency or colour profile. A file that needs one of them is refused with a
message that says so, not answered with a picture that lies on its side or has other colours.
"""

from __future__ import annotations

import tensorflow as tf

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 65_536
"""Where the transparency entry and the colours of a file are looked for."""
# Regular expressions of TensorFlow (RE2): \C is any byte.
_TURNED = (
    r"\C*(?:Exif\x00\x00|eXIf)"
    r"(?:II\*\x00\C*\x12\x01\x03\x00\x01\x00\x00\x00[\x02-\x08]\x00|MM\x00\*\C*\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08])\C*"
)
_SRGB_NAME = r"(?:sRGB|s\x00R\x00G\x00B)"
_SRGB_GAMMA, _SAME_GAMMA = 45_455, 500
"""gAMA of sRGB, and how far off it may be."""


def stated_size(data: tf.Tensor) -> tf.Tensor:
    """Height and width that a PNG or JPEG file's header states; fails with INVALID_ARGUMENT for other data."""
    is_png = _is_png(data)
    known = tf.debugging.Assert(is_png | tf.io.is_jpeg(data), ["not a PNG or JPEG file"])

    def png() -> tf.Tensor:
        return tf.reverse(tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False), [0])

    with tf.control_dependencies([known]):
        return tf.cond(is_png, png, lambda: tf.io.extract_jpeg_shape(data)[:2])


def check_plain(data: tf.Tensor) -> list[tf.Operation]:
    """Fails with INVALID_ARGUMENT for a PNG or JPEG file whose pixels, as TensorFlow decodes them, are not the picture."""
    is_png, head = _is_png(data), tf.strings.substr(data, 0, tf.minimum(tf.strings.length(data), _HEADER_BYTES))

    def has(pattern: str) -> tf.Tensor:
        return tf.strings.regex_full_match(head, rf"\C*(?:{pattern})\C*")

    def png_is_transparent() -> tf.Tensor:
        kind = tf.strings.substr(data, 25, 1)
        return tf.equal(kind, b"\x04") | tf.equal(kind, b"\x06") | has("tRNS")

    def png_has_colours() -> tf.Tensor:
        profile = has("iCCP") & ~has(rf"iCCP{_SRGB_NAME}")
        return profile | has("cICP") | (~has("iCCP|sRGB") & _has_other_gamma(head))

    def jpeg_has_colours() -> tf.Tensor:
        inks = tf.equal(tf.io.extract_jpeg_shape(data)[2], 4)
        return inks | (has(r"ICC_PROFILE\x00") & ~has(rf"ICC_PROFILE\x00\C*{_SRGB_NAME}"))

    turned = tf.strings.regex_full_match(data, _TURNED)
    transparent = tf.cond(is_png, png_is_transparent, lambda: tf.constant(False))
    coloured = tf.cond(is_png, png_has_colours, jpeg_has_colours)
    advice = "send it as an array, or converted by the command line"
    return [
        tf.debugging.Assert(~turned, [f"the file is to be turned by its EXIF orientation, which is not done here: {advice}"]),
        tf.debugging.Assert(~transparent, [f"the file has transparency, which is not supported here: {advice}"]),
        tf.debugging.Assert(~coloured, [f"the file has a colour profile other than sRGB, which is not kept here: {advice}"]),
    ]


def decode(data: tf.Tensor) -> tf.Tensor:
    """[height, width, 3] uint8 of a file that `check_plain` lets pass."""
    with tf.control_dependencies(check_plain(data)):
        image = tf.cond(
            _is_png(data),
            lambda: tf.io.decode_png(data, channels=3),
            lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),  # as Pillow does it
        )
        return tf.ensure_shape(image, [None, None, 3])


def _is_png(data: tf.Tensor) -> tf.Tensor:
    length = tf.strings.length(data)
    return tf.equal(tf.strings.substr(data, 0, tf.minimum(length, len(_PNG_SIGNATURE))), _PNG_SIGNATURE) & (length >= 33)


def _has_other_gamma(head: tf.Tensor) -> tf.Tensor:
    """Whether a PNG's gAMA is not that of sRGB."""
    parts = tf.strings.split(head, "gAMA")

    def differs() -> tf.Tensor:
        gamma = tf.io.decode_raw(tf.strings.substr(parts[1], 0, 4), tf.int32, little_endian=False)[0]
        return tf.abs(gamma - _SRGB_GAMMA) > _SAME_GAMMA

    return tf.cond(tf.size(parts) > 1, differs, lambda: tf.constant(False))
