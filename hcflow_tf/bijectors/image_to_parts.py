"""What a bijection from an HR image to several parts looks like from outside: shapes, and the checks of them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from hcflow_tf.bijectors.base import FlowBijector, check_image
from hcflow_tf.support.latents import Latent


class ImageToParts(FlowBijector):
    """hr [batch, h, w, 3] <-> [lr, z_1, z_2, ...], or [z_1, z_2, ...] given lr; a subclass computes it."""

    invertible = True
    """Whether hr can be encoded."""

    def __init__(self, *, hr_multiple: int, scale: int, has_lr: bool, latents: Sequence[Latent], name: str | None = None):
        """Says what goes in and comes out.

        Args:
          hr_multiple: what height and width of hr must be divisible by.
          scale: width of hr over width of lr.
          has_lr: whether lr is the first part.
          latents: channels and resolution of z_1, z_2, ...
        """
        parts = has_lr + len(latents)
        super().__init__(forward_min_event_ndims=3, inverse_min_event_ndims=[3] * parts, name=name)
        self._hr_multiple, self._scale, self._has_lr = hr_multiple, scale, has_lr
        self._latents = self._no_dependency(tuple(latents))

    @property
    def scale(self) -> int:
        """Width of hr over width of lr."""
        return self._scale

    @property
    def lr_multiple(self) -> int:
        """What height and width of lr must be divisible by: 1, unless hr is divided by more than the scale."""
        return self._hr_multiple // self._scale

    @property
    def latents(self) -> tuple[Latent, ...]:
        """Channels and resolution of z_1, z_2, ..."""
        return self._latents

    @property
    def has_lr(self) -> bool:
        """Whether the LR image is one of the outputs."""
        return self._has_lr

    @property
    def needs_lr(self) -> bool:
        """Whether both directions take the condition `lr`."""
        return not self._has_lr

    def _check_forward(self, x: tf.Tensor, lr: tf.Tensor | None = None) -> None:
        check_image(self.name, x, channels=3, divisor=self._hr_multiple)
        if self.needs_lr and lr is None:
            raise ValueError(f"{self.name}: expected the condition lr beside the image")
        if lr is not None:
            batch, *sizes = x.shape[:3]
            expected = [batch, *(None if size is None else size // self.scale for size in sizes), 3]
            if not lr.shape.is_compatible_with(expected):
                raise ValueError(f"{self.name}: expected lr of shape {expected} for this image, got {lr.shape}")

    def _check_inverse(self, y: list[tf.Tensor], lr: tf.Tensor | None = None) -> None:
        names = [*(["lr"] if self._has_lr else []), *(f"z_{index + 1}" for index in range(len(self._latents)))]
        if len(y) != len(names):
            raise ValueError(f"{self.name}: expected [{', '.join(names)}], got {len(y)} tensors")
        if self.needs_lr and lr is None and not self._has_lr:
            raise ValueError(f"{self.name}: expected the condition lr beside the latents")
        image = lr if lr is not None else y[0]
        self.check_lr(image)
        latents = y[1:] if self._has_lr else y
        self.check_latents(image, latents)

    def check_forward(self, hr: tf.Tensor, lr: tf.Tensor | None = None) -> None:
        """Raises ValueError unless hr, and the condition lr where one is needed, have shapes that can be encoded."""
        self._check_forward(hr, **({} if lr is None else {"lr": lr}))

    def check_lr(self, lr: tf.Tensor) -> None:
        """Raises ValueError unless lr is an RGB image that can be decoded, height and width divisible by `lr_multiple`."""
        check_image(f"{self.name}: lr", lr, channels=3, divisor=self.lr_multiple)

    def check_latents(self, lr: tf.Tensor, latents: Sequence[tf.Tensor]) -> None:
        """Raises ValueError unless [z_1, z_2, ...] fit this lr [batch, h, w, 3]."""
        if len(latents) != len(self._latents):
            names = ", ".join(f"z_{index + 1}" for index in range(len(self._latents)))
            raise ValueError(f"{self.name}: expected [{names}], got {len(latents)} latents")
        for index, (latent, (channels, divisor)) in enumerate(zip(latents, self._latents, strict=True), start=1):
            batch, *sizes = lr.shape[:3]
            expected = [batch, *(None if size is None else size * self._scale // divisor for size in sizes), channels]
            if not latent.shape.is_compatible_with(expected):
                raise ValueError(f"{self.name}: expected z_{index} of shape {expected} for lr {lr.shape}, got {latent.shape}")

    # Structures of types and event shapes, which TransformedDistribution asks for.

    @property
    def _factors(self) -> list[int]:
        """By what height and width of hr are divided in each part."""
        return [*([self.scale] if self._has_lr else []), *(latent.divisor for latent in self._latents)]

    @property
    def _channels(self) -> list[int]:
        return [*([3] if self._has_lr else []), *(latent.channels for latent in self._latents)]

    def _forward_dtype(self, dtype: tf.DType, **conditions: tf.DType) -> list[tf.DType]:
        return [dtype] * len(self._factors)

    def _inverse_dtype(self, dtypes: list[tf.DType], **conditions: tf.DType) -> tf.DType:
        return dtypes[0]

    def _forward_event_shape(self, shape: tf.TensorShape) -> list[tf.TensorShape]:
        parts = []
        for factor, channels in zip(self._factors, self._channels, strict=True):
            sizes = [None if size is None else size // factor for size in shape[-3:-1]]
            parts.append(shape[:-3].concatenate([*sizes, channels]))
        return parts

    def _inverse_event_shape(self, shapes: list[tf.TensorShape]) -> tf.TensorShape:
        sizes = [None if size is None else size * self._factors[0] for size in shapes[0][-3:-1]]
        return shapes[0][:-3].concatenate([*sizes, 3])

    def _forward_event_shape_tensor(self, shape: tf.Tensor) -> list[tf.Tensor]:
        return [
            tf.concat([shape[:-3], shape[-3:-1] // factor, [channels]], axis=0)
            for factor, channels in zip(self._factors, self._channels, strict=True)
        ]

    def _inverse_event_shape_tensor(self, shapes: list[tf.Tensor]) -> tf.Tensor:
        return tf.concat([shapes[0][:-3], shapes[0][-3:-1] * self._factors[0], [3]], axis=0)
