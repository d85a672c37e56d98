"""Runs a .tflite file made by export/export_tflite.py with LiteRT on the CPU."""

from __future__ import annotations

import io
import json
import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hcflow_tf.runtimes.exported import HR, LR, PROBE_SIZE, decoder_inputs, latent_names, stated_latents
from hcflow_tf.runtimes.runtime import Runtime
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import encoder_path
from hcflow_tf.support.latents import latent_shapes
from hcflow_tf.support.quiet import held_back_stderr

if TYPE_CHECKING:
    from hcflow_tf.models.folded import InferenceModel

FACTS_FILE = "hcflow_tf.json"
"""In the archive at the end of a file, where TFLite's own metadata keep files, too."""
MAX_FACTS = 2**16

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
        facts = _facts(path)
        try:
            channels = [int(inputs[name]["shape"][-1]) for name in latent_names(len(inputs) - 1)]
            self.latents = stated_latents(channels, facts.get("latent_divisors", [])[: len(channels)] if facts else None)
            _, height, width, _ = inputs[LR]["shape_signature"]
        except (KeyError, ValueError) as error:
            raise HCFlowError(f"{path} is not a decoder made by export/export_tflite.py: it lacks {error}") from error
        self._batches = height < 0
        self.fixed_lr_size = None if self._batches else (int(height), int(width))
        self.scale = int(facts["scale"]) if facts else self._probe_scale()
        self._lr_multiple = max([1, *(divisor // self.scale for divisor in facts.get("latent_divisors", ()))])

    @property
    def lr_multiple(self) -> int:
        """See `Runtime.lr_multiple`; it holds for a file without latents, too."""
        return self._lr_multiple

    def _probe_scale(self) -> int:
        """Of a file that does not say it, the first versions'; then the coarsest latents are as large as lr."""
        if self.fixed_lr_size:
            return int(self._decode.get_output_details()[HR]["shape"][1]) // self.fixed_lr_size[0]
        shapes = latent_shapes(PROBE_SIZE, PROBE_SIZE, 2 ** len(self.latents), self.latents)
        zeros = [np.zeros([1, *shape], np.float32) for shape in shapes]
        return self.decode(np.zeros((1, PROBE_SIZE, PROBE_SIZE, 3), np.float32), zeros).shape[1] // PROBE_SIZE

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
        with held_back_stderr(show_on_failure=False):  # it announces its delegate
            interpreter = Interpreter(model_path=str(path), num_threads=os.cpu_count())
            signatures = interpreter.get_signature_list()
            runner = interpreter.get_signature_runner(signature) if signature in signatures else None
    except (ValueError, RuntimeError) as error:
        raise HCFlowError(f"{path} is not a readable .tflite file: {' '.join(str(error).split())[:200]}") from error
    if runner is None:
        names = ", ".join(signatures) or "none"
        raise HCFlowError(f"{path} has no signature {signature!r} (it has: {names}): export it with export/export_tflite.py")
    return runner


def with_facts(content: bytes, folded: InferenceModel) -> bytes:
    """A decoder's file that also says scale and resolution of the latents; other programs do not look there."""
    facts = {"scale": folded.scale, "latent_divisors": [latent.divisor for latent in folded.latents]}
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(FACTS_FILE), json.dumps(facts))
    return file.getvalue()


def _facts(path: pathlib.Path) -> dict[str, Any]:
    """What `with_facts` wrote; empty for a file without."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(FACTS_FILE).file_size > MAX_FACTS:
                raise ValueError("too large")
            facts = json.loads(archive.read(FACTS_FILE))
            return {"scale": int(facts["scale"]), "latent_divisors": [int(divisor) for divisor in facts["latent_divisors"]]}
    except (zipfile.BadZipFile, KeyError):
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise HCFlowError(f"{path} cannot be read: what it says of its scale is damaged") from error
