"""The weights of one flow step; the bijectors over them are made in `hcflow_tf.models`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from hcflow_tf.networks.layers import ActNorm, InvertibleMatrix
from hcflow_tf.networks.linear_map import LinearMap


class FlowStepWeights(keras.layers.Layer):
    """ActNorm, the 1x1 matrix where there is one, and the networks of the coupling and the injector where there are such."""

    def __init__(
        self,
        channels: int,
        network: keras.layers.Layer | None = None,
        *,
        injector: keras.layers.Layer | None = None,
        matrix: str | keras.initializers.Initializer | None,
        **kwargs,
    ):
        """Args: matrix, how the 1x1 matrix starts; None for a step without one."""
        super().__init__(**kwargs)
        self.actnorm = ActNorm(channels, name="actnorm", dtype=self.dtype_policy)
        self.rotation = None
        if matrix is not None:
            self.rotation = InvertibleMatrix(channels, matrix, name="rotation", dtype=self.dtype_policy)
        self.injector: Any = injector
        self.network: Any = network

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for layer in (self.actnorm, self.rotation, self.injector, self.network):
            if layer is not None:
                layer.build(None)

    def linear_map(self, *, before: np.ndarray | None = None, keep: int = 0) -> LinearMap:
        """ActNorm and matrix as one; see `LinearMap`."""
        return LinearMap(self.actnorm, self.rotation, before=before, keep=keep)
