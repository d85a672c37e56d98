"""The weights of one flow step; the bijectors over them are made in `hcflow_tf.model`."""

from __future__ import annotations

import keras

from hcflow_tf.networks.layers import ActNorm, Rotation


class FlowStepWeights(keras.layers.Layer):
    """ActNorm, the 1x1 matrix where there is one, and the coupling network of one step."""

    def __init__(self, channels: int, network: keras.layers.Layer, *, rotate: bool, **kwargs):
        super().__init__(**kwargs)
        self.actnorm = ActNorm(channels, name="actnorm", dtype=self.dtype_policy)
        self.rotation = Rotation(channels, name="rotation", dtype=self.dtype_policy) if rotate else None
        self.network = network

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for layer in (self.actnorm, self.rotation, self.network):
            if layer is not None:
                layer.build(None)
