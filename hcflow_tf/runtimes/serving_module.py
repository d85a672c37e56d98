"""The functions that a SavedModel serves, over the inference form of a model."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.runtimes import picture_bytes
from hcflow_tf.runtimes.exported import HR, LR, latent_names

IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8)
FLOATS = tf.TensorSpec([None, None, None, 3], tf.float32)
STRINGS = tf.TensorSpec([None], tf.string)


class ServingModule(tf.Module):
    """Every function takes and returns a leading batch dimension; an image's result depends on nothing else in its batch."""

    def __init__(self, folded: InferenceModel, max_pixels: int):
        """Args: max_pixels, of an LR image; larger ones are refused (HR images: scale^2 times this)."""
        super().__init__(name="hcflow")
        self._folded, self._max_pixels = folded, max_pixels
        # What a program must know to use it; the signatures cannot say it.
        self.scale = tf.Variable(folded.scale, trainable=False)
        self.latent_divisors = tf.Variable([latent.divisor for latent in folded.latents], trainable=False, dtype=tf.int32)

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """The functions by signature name."""
        channels = self._folded.latent_channels
        latents = {
            name: tf.TensorSpec([None, None, None, count], tf.float32, name)
            for count, name in zip(channels, latent_names(len(channels)), strict=True)
        }
        functions = {
            "upscale": _concrete(self._upscale, image=IMAGES),
            "upscale_bytes": _concrete(self._upscale_bytes, image_bytes=STRINGS),
            "decode": _concrete(self._decode, lr=FLOATS, **latents),
        }
        if channels:
            per_image = {"temperature": tf.TensorSpec([None], tf.float32), "seed": tf.TensorSpec([None], tf.int64)}
            functions["sample"] = _concrete(self._sample, image=IMAGES, **per_image)
        if self._folded.has_likelihood:
            functions["log_prob"] = _concrete(self._log_prob, hr=FLOATS, lr=FLOATS)
        if self._folded.can_encode:
            functions["encode"] = _concrete(self._encode, hr=FLOATS)
        if self._folded.config.makes_lr:
            functions["downscale"] = _concrete(self._downscale, image=IMAGES)
            functions["downscale_bytes"] = _concrete(self._downscale_bytes, image_bytes=STRINGS)
        return {"serving_default": functions["upscale"], **functions}

    def _upscale(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([self._check_size(tf.shape(image)[1:3], 1)]):
            return {"image": _to_bytes(self._any_size(image, self._folded.decode))}

    def _sample(self, image: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        checks = [self._check_size(tf.shape(image)[1:3], 1), *_check_draws(tf.shape(image)[0], temperature, seed)]
        with tf.control_dependencies(checks):
            return {"image": _to_bytes(self._any_size(image, lambda lr: self._folded.sample(lr, temperature, seed)))}

    def _downscale(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        scale = self._folded.scale
        with tf.control_dependencies([self._check_size(tf.shape(image)[1:3], scale)]):
            return {"image": _to_bytes(self._folded.downscale(_to_float(_pad_to_multiple(image, scale))))}

    def _any_size(self, image: tf.Tensor, restore: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """What `restore` makes of LR images of bytes, mirrored to a size that the model takes, and cropped after it."""
        scale, multiple = self._folded.scale, self._folded.flow.lr_multiple
        if multiple == 1:
            return restore(_to_float(image))
        size = tf.shape(image)[1:3] * scale
        return restore(_to_float(_pad_to_multiple(image, multiple)))[:, : size[0], : size[1]]

    def _upscale_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._each(image_bytes, self._upscale, 1)

    def _downscale_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._each(image_bytes, self._downscale, self._folded.scale)

    def _encode(self, hr: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([self._check_size(tf.shape(hr)[1:3], self._folded.scale)]):
            lr, latents = self._folded.encode(hr)
            return {LR: lr, **dict(zip(latent_names(len(latents)), latents, strict=True))}

    def _decode(self, lr: tf.Tensor, **latents: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([self._check_size(tf.shape(lr)[1:3], 1)]):
            return {HR: self._folded.decode(lr, [latents[name] for name in latent_names(len(latents))], guard=True)}

    def _log_prob(self, hr: tf.Tensor, lr: tf.Tensor) -> dict[str, tf.Tensor]:
        fitting = tf.reduce_all(tf.shape(hr)[:3] == tf.shape(lr)[:3] * [1, self._folded.scale, self._folded.scale])
        message = f"expected an lr for each hr, {self._folded.scale} times smaller; shapes of hr and lr:"
        check = tf.debugging.Assert(fitting, [message, tf.shape(hr), tf.shape(lr)])
        with tf.control_dependencies([self._check_size(tf.shape(hr)[1:3], self._folded.scale), check]):
            return {"log_prob": self._folded.log_prob(hr, lr)}

    def _each(
        self, image_bytes: tf.Tensor, function: Callable[[tf.Tensor], dict[str, tf.Tensor]], scale: int
    ) -> dict[str, tf.Tensor]:
        """Decodes, maps and encodes one image after the other: they need not have one size."""

        def run(data: tf.Tensor) -> tf.Tensor:
            # The header is read first, so that a small file cannot ask for a huge image.
            with tf.control_dependencies([self._check_size(picture_bytes.stated_size(data), scale)]):
                image = picture_bytes.decode(data)
            return tf.io.encode_png(function(image[None])["image"][0])

        images = tf.map_fn(run, image_bytes, fn_output_signature=tf.TensorSpec([], tf.string), parallel_iterations=1)
        return {"image_bytes": images}

    def _check_size(self, size: tf.Tensor, scale: int) -> tf.Operation:
        """Fails with INVALID_ARGUMENT if an image of this height and width is too large, or empty."""
        limit, pixels = self._max_pixels * scale**2, tf.reduce_prod(tf.cast(size, tf.int64))
        message = f"the image must have 1 to {limit} pixels (tile larger ones)"
        return tf.debugging.Assert((pixels > 0) & (pixels <= limit), [message, "height and width:", size])


def _check_draws(batch: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> list[tf.Operation]:
    """Fails with INVALID_ARGUMENT unless the temperatures, one or [batch], are finite and at least 0, and the seeds [batch]."""
    counts = [tf.size(temperature), tf.size(seed)]
    message = "expected one temperature, or one for each image of the batch, and a seed for each; images, temperatures, seeds:"
    fitting = ((counts[0] == 1) | (counts[0] == batch)) & (counts[1] == batch)
    return [
        tf.debugging.Assert(fitting, [message, batch, *counts]),
        tf.debugging.Assert(
            tf.reduce_all(tf.math.is_finite(temperature) & (temperature >= 0)),
            ["expected finite temperatures of at least 0, got:", temperature],
        ),
    ]


def _concrete(function: object, **specs: tf.TensorSpec) -> tf.types.experimental.ConcreteFunction:
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in specs.items()}
    return tf.function(function, autograph=False).get_concrete_function(**named)


def _pad_to_multiple(image: tf.Tensor, multiple: int) -> tf.Tensor:
    missing = -tf.shape(image)[1:3] % multiple
    return tf.pad(image, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]], "SYMMETRIC")


def _to_float(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(image, tf.float32) / 255.0


def _to_bytes(image: tf.Tensor) -> tf.Tensor:
    """[0, 1] to uint8, clipped and rounded half up, as the commands do."""
    return tf.cast(tf.floor(tf.clip_by_value(image, 0.0, 1.0) * 255.0 + 0.5), tf.uint8)
