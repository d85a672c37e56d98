"""Model directories: the Keras weights in the folded inference form, and a model in the middle of its training."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hcflow_tf.runtimes.runtime import Runtime
from hcflow_tf.support.quiet import start_tensorflow

if TYPE_CHECKING:
    from hcflow_tf.models.trained_model import TrainedModel


class KerasRuntime(Runtime):
    """A model directory, in the folded inference form."""

    on_gpu = True

    def __init__(self, path_or_name: str | os.PathLike, *, guard: bool = True):
        """Loads the model.

        Args:
          path_or_name: as `hcflow_tf.load_model`.
          guard: cap the standard deviations of samples (`hcflow_tf.models.guard`) in super-resolution.

        Raises:
          HCFlowError: as `hcflow_tf.load_model`.
        """
        start_tensorflow()
        import tensorflow as tf

        from hcflow_tf.models.complexity import measure
        from hcflow_tf.models.folded import InferenceModel
        from hcflow_tf.weights.store import load_model

        model = load_model(path_or_name)
        self._unguarded = model if guard and model.needs_guard and model.log_std_caps is None else None
        self.name, self.makes_lr, self.scale = str(path_or_name), model.config.makes_lr, model.scale
        self.latents, self.can_encode, self.has_likelihood = model.latents, model.can_encode, model.has_likelihood
        cost = measure(model.config, {name: weight.shape for name, weight in model.named_weights().items()})
        self.overlap, self.decode_bytes = cost.overlap, cost.decode_bytes
        self._inference = inference = InferenceModel(model)
        image, *latents = [tf.TensorSpec([None, None, None, channels]) for channels in (3, *model.latent_channels)]

        # Signatures that leave the size open: one tracing, which takes seconds, serves all images and tiles.
        def compiled(method: Callable, *inputs: tf.TensorSpec) -> Callable:
            return tf.function(method, input_signature=inputs, autograph=False)

        self._compile_decode = lambda: compiled(lambda lr, *z: inference.decode(lr, z, guard=guard), image, *latents)
        self._decode = self._compile_decode()
        self._encode = compiled(inference.encode, image)
        self._downscale = compiled(inference.downscale, image)
        self._log_prob = compiled(inference.log_prob, image, image)

    def decode(self, lr: np.ndarray, latents: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.decode`."""
        if self._unguarded is not None and any(np.any(latent) for latent in latents):
            self._measure_guard(self._unguarded)
        return self._decode(lr, *latents).numpy()

    def _measure_guard(self, model: TrainedModel) -> None:
        """On the first sample of a model whose directory keeps no caps; `hcflow convert` and `ship` leave them there."""
        from hcflow_tf.models.guard import ensure_guard

        ensure_guard(model)
        self._inference.set_guard(model.log_std_caps)
        self._unguarded, self._decode = None, self._compile_decode()

    @property
    def can_downscale(self) -> bool:
        """See `Runtime.can_downscale`."""
        return self._inference.flow.has_lr

    def encode(self, hr: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """See `Runtime.encode`."""
        lr, latents = self._encode(hr)
        return lr.numpy(), [latent.numpy() for latent in latents]

    def downscale(self, hr: np.ndarray) -> np.ndarray:
        """See `Runtime.downscale`."""
        return self._downscale(hr).numpy()

    def log_prob(self, hr: np.ndarray, lr: np.ndarray) -> np.ndarray:
        """See `Runtime.log_prob`."""
        return self._log_prob(hr, lr).numpy()
