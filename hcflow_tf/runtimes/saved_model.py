"""Runs a SavedModel made by export/export_saved_model.py."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from hcflow_tf.runtimes.exported import HR, LR, decoder_inputs, latent_names, stated_latents
from hcflow_tf.runtimes.runtime import Runtime
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.quiet import start_tensorflow


class SavedModelRuntime(Runtime):
    """One version of a served model."""

    on_gpu = True

    def __init__(self, path: str | os.PathLike):
        """Loads the directory that holds saved_model.pb.

        Raises:
          HCFlowError: it cannot be read, or is another kind of model.
        """
        start_tensorflow()
        import tensorflow as tf

        self.name = str(path)
        try:
            self._loaded = tf.saved_model.load(str(path))
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise HCFlowError(f"{path} is not a readable SavedModel: {' '.join(str(error).split())[:200]}") from error
        self._signatures = self._loaded.signatures
        if "decode" not in self._signatures or "upscale" not in self._signatures:
            raise HCFlowError(f"{path} was not made by export/export_saved_model.py: it has no signatures decode and upscale")
        self.can_encode, self.has_likelihood = "encode" in self._signatures, "log_prob" in self._signatures
        inputs = self._signatures["decode"].structured_input_signature[1]
        channels = [inputs[name].shape[-1] for name in latent_names(len(inputs) - 1)]
        divisors = getattr(self._loaded, "latent_divisors", None)
        self.latents = stated_latents(channels, None if divisors is None else divisors.numpy())
        self.scale = 2 ** len(channels) if divisors is None else int(self._loaded.scale.numpy())
        self.makes_lr = "downscale" in self._signatures

    def decode(self, lr: np.ndarray, latents: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.decode`."""
        return self.call("decode", **decoder_inputs(lr, latents))[HR]

    def encode(self, hr: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """See `Runtime.encode`."""
        outputs = self.call("encode", hr=np.asarray(hr, np.float32))
        return outputs[LR], [outputs[name] for name in latent_names(len(outputs) - 1)]

    def log_prob(self, hr: np.ndarray, lr: np.ndarray) -> np.ndarray:
        """See `Runtime.log_prob`."""
        return self.call("log_prob", hr=np.asarray(hr, np.float32), lr=np.asarray(lr, np.float32))["log_prob"]

    def call(self, signature: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Calls a signature by name.

        Raises:
          HCFlowError: the model refuses the input, such as an image above its limit.
        """
        import tensorflow as tf

        try:
            outputs = self._signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        except tf.errors.InvalidArgumentError as error:
            raise HCFlowError(f"{self.name} refuses the input: {' '.join(str(error.message).split())[:300]}") from error
        return {name: value.numpy() for name, value in outputs.items()}
