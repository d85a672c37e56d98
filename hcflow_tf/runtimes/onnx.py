"""Runs an .onnx file made by export/export_onnx.py with ONNX Runtime on the CPU."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hcflow_tf.runtimes.exported import HR, LR, decoder_inputs, latent_names, stated_latents
from hcflow_tf.runtimes.runtime import Runtime
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import encoder_path


@dataclasses.dataclass(frozen=True)
class OnnxGraph:
    """A file that an engine has opened.

    Attributes:
      inputs: shapes by name; of a free side, no number or one below 0.
      outputs: names.
      metadata: what the export says of itself.
      run: from inputs by name to the outputs in order.
    """

    inputs: Mapping[str, Sequence[int]]
    outputs: Sequence[str]
    metadata: Mapping[str, str]
    run: Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]


class OnnxRuntime(Runtime):
    """A decoder, with the encoder beside it (`encoder_path`) where there is one; either layout."""

    def __init__(self, path: str | os.PathLike):
        """Opens the file.

        Raises:
          HCFlowError: it is no such file, or ONNX Runtime is not installed.
        """
        path = pathlib.Path(path)
        self.name = str(path)
        self._decode = self.open_decoder(path)
        self._encode = self.open_encoder(encoder_path(path)) if encoder_path(path).is_file() else None
        self.can_encode = self.makes_lr = self._encode is not None
        metadata, inputs = self._decode.metadata, self._decode.inputs
        try:
            self.scale, layout = int(metadata["scale"]), metadata["layout"]
            channel = 1 if layout == "nchw" else 3
            channels = [inputs[name][channel] for name in latent_names(len(inputs) - 1)]
            divisors = metadata.get("latent_divisors")
            self.latents = stated_latents(channels, None if divisors is None else [int(text) for text in divisors.split()])
        except (KeyError, ValueError, IndexError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else "its inputs are others (an encoder?)"
            raise HCFlowError(f"{path} is not a decoder made by export/export_onnx.py: {what}") from error
        self._nchw = layout == "nchw"

    def open_decoder(self, path: pathlib.Path) -> OnnxGraph:
        """Opens the decoder."""
        return _open(path)

    def open_encoder(self, path: pathlib.Path) -> OnnxGraph:
        """Opens the encoder."""
        return _open(path)

    def decode(self, lr: np.ndarray, latents: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.decode`."""
        return self._run(self._decode, decoder_inputs(lr, latents))[HR]

    def encode(self, hr: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """See `Runtime.encode`."""
        if self._encode is None:
            return super().encode(hr)
        outputs = self._run(self._encode, {HR: np.asarray(hr, np.float32)})
        return outputs[LR], [outputs[name] for name in latent_names(len(outputs) - 1)]

    def _run(self, graph: OnnxGraph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._nchw:
            inputs = {name: value.transpose(0, 3, 1, 2) for name, value in inputs.items()}
        try:
            outputs = dict(zip(graph.outputs, graph.run(inputs), strict=True))
        except Exception as error:  # the engines' exceptions share no base class
            raise HCFlowError(f"{self.name} cannot be run: {' '.join(str(error).split())[:200]}") from error
        return {name: value.transpose(0, 2, 3, 1) for name, value in outputs.items()} if self._nchw else outputs


def _open(path: pathlib.Path) -> OnnxGraph:
    os.environ.setdefault(
        "ORT_DISABLE_TELEMETRY", "1"
    )  # it would write an identity of the user into his home, and report what it runs
    try:
        import onnxruntime
    except ImportError as error:
        raise HCFlowError(f"{path}: needs ONNX Runtime: pip install onnxruntime") from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise not_readable(path, error) from error
    inputs = {value.name: value.shape for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    metadata = session.get_modelmeta().custom_metadata_map
    return OnnxGraph(inputs, outputs, metadata, lambda values: session.run(outputs, dict(values)))


def not_readable(path: pathlib.Path, error: Exception) -> HCFlowError:
    """What an engine makes of a damaged file."""
    return HCFlowError(f"{path} is not a readable .onnx file: {' '.join(str(error).split())[:200]}")
