"""What stands in the place of the flow in a model that only restores: a network from lr to hr."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from hcflow_tf.bijectors.base import CONDITION_SCOPE, ValueAndLogDet, check_image
from hcflow_tf.support.latents import Latent


class OneWay:
    """hr = network(lr): one image for each lr. Nothing is drawn, and there is no way back.

    It has what callers ask a `HierarchicalFlow` for.
    """

    invertible = has_lr = needs_lr = has_gaussians = False
    latents: tuple[Latent, ...] = ()
    lr_multiple = 1

    def __init__(self, network: Callable[[tf.Tensor], tf.Tensor], scale: int, *, name: str):
        """Args: network, [batch, h, w, 3] -> [batch, scale h, scale w, 3]."""
        self._network, self.scale, self.name = network, scale, name

    def decode(self, lr: tf.Tensor, latents: Sequence[tf.Tensor] | None = None) -> tf.Tensor:
        """hr [batch, scale h, scale w, 3] of lr [batch, h, w, 3]; latents, none or an empty list."""
        lr = tf.convert_to_tensor(lr)
        self.check_lr(lr)
        self.check_latents(lr, latents or [])
        with tf.name_scope(CONDITION_SCOPE):  # exports may compute it in int8, as they do what makes the conditions of a flow
            return self._network(lr)

    def check_lr(self, lr: tf.Tensor) -> None:
        """Raises ValueError unless lr is an RGB image."""
        check_image(f"{self.name}: lr", lr, channels=3)

    def check_latents(self, lr: tf.Tensor, latents: Sequence[tf.Tensor]) -> None:
        """Raises ValueError where there are any."""
        if latents:
            raise ValueError(f"{self.name}: takes no latents, got {len(latents)}")

    def check_forward(self, hr: tf.Tensor, lr: tf.Tensor | None = None) -> None:
        """Raises ValueError: there is no encoder."""
        raise self.no_way_back()

    def forward_and_log_det(self, hr: tf.Tensor, lr: tf.Tensor | None = None) -> ValueAndLogDet:
        """Raises ValueError: there is no encoder."""
        raise self.no_way_back()

    def downscale(self, hr: tf.Tensor) -> tf.Tensor:
        """Raises ValueError: there is no encoder."""
        raise self.no_way_back()

    def no_way_back(self) -> ValueError:
        """What is raised where someone asks for an encoding or a likelihood."""
        return ValueError(f"{self.name}: has no encoder and no likelihood, it makes hr of lr alone")

    def initialise(self, hr: tf.Tensor, lr: tf.Tensor | None = None) -> None:
        """Nothing of it starts from data."""
