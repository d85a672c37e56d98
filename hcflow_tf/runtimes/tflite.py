"""Runs a .tflite file made by export/export_tflite.py with LiteRT on the CPU."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from hcflow_tf.runtimes.exported import HR, LR, PROBE_SIZE, decoder_inputs, encoder_path, latent_names
from hcflow_tf.runtimes.runtime import Runtime
from hcflow_tf.support.errors import HCFlowError

DECODE, ENCODE = "decode", "encode"
"""Names of the signatures."""


class TFLiteRuntime(Runtime):
    """A decoder, with the encoder beside it (`encoder_path`) where there is one."""

    def __init__(self, path: str | os.PathLike):
        """Opens the file.

        Raises:
          HCFlowError: it is no such file, or LiteRT is not installed.
        """
        path = pathlib.Path(path)
        self.name = str(path)
        self._decode = _runner(path, DECODE)
        self._encode = _runner(encoder_path(path), ENCODE) if encoder_path(path).is_file() else None
        self.can_encode = self.makes_lr = self._encode is not None
        inputs = self._decode.get_input_details()
        names = latent_names(len(inputs) - 1)
        try:
            self.latent_channels = tuple(int(inputs[name]["shape"][-1]) for name in names)
            _, height, width, _ = inputs[LR]["shape_signature"]
        except (KeyError, ValueError) as error:
            raise HCFlowError(f"{path} is not a decoder made by export/export_tflite.py: it lacks {error}") from error
        self._batches = height < 0
        self.fixed_lr_size = None if self._batches else (int(height), int(width))
        if self._batches:
            probe = self.decode(*_zeros(PROBE_SIZE, self.latent_channels))
            self.scale = probe.shape[1] // PROBE_SIZE
        else:
            self.scale = int(self._decode.get_output_details()[HR]["shape"][1]) // int(height)

    def decode(self, lr: np.ndarray, latents: Sequence[np.ndarray] = ()) -> np.ndarray:
        """See `Runtime.decode`; a file without latents decodes at temperature 0."""
        return self._run(self._decode, decoder_inputs(lr, latents))[HR]

    def encode(self, hr: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """See `Runtime.encode`."""
        if self._encode is None:
            return super().encode(hr)
        outputs = self._run(self._encode, {HR: np.asarray(hr, np.float32)})
        return outputs[LR], [outputs[name] for name in latent_names(len(outputs) - 1)]

    def _run(self, runner: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch = len(next(iter(inputs.values())))
        try:
            if self._batches:
                return runner(**inputs)
            images = [runner(**{name: value[i : i + 1] for name, value in inputs.items()}) for i in range(batch)]
        except (ValueError, RuntimeError) as error:
            raise HCFlowError(f"{self.name} cannot be run: {' '.join(str(error).split())[:200]}") from error
        return {name: np.concatenate([outputs[name] for outputs in images]) for name in images[0]}


def _runner(path: pathlib.Path, signature: str) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise HCFlowError(f"{path}: needs LiteRT: pip install ai-edge-litert") from error
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=os.cpu_count())
        signatures = interpreter.get_signature_list()
        runner = interpreter.get_signature_runner(signature) if signature in signatures else None
    except (ValueError, RuntimeError) as error:
        raise HCFlowError(f"{path} is not a readable .tflite file: {' '.join(str(error).split())[:200]}") from error
    if runner is None:
        names = ", ".join(signatures) or "none"
        raise HCFlowError(f"{path} has no signature {signature!r} (it has: {names}): export it with export/export_tflite.py")
    return runner


def _zeros(size: int, latent_channels: Sequence[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    levels = len(latent_channels)
    shapes = [(1, size << (levels - level), size << (levels - level), c) for level, c in enumerate(latent_channels, 1)]
    return np.zeros((1, size, size, 3), np.float32), [np.zeros(shape, np.float32) for shape in shapes]
