"""What runs a model: Keras weights, the bicubic baseline, or an exported SavedModel, TFLite or ONNX file."""

from __future__ import annotations

import abc
import importlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hcflow_tf.data.resize import imresize
from hcflow_tf.images.images import quantize
from hcflow_tf.models.complexity import MAX_OVERLAP
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.files import expand_user, is_file, is_folder
from hcflow_tf.support.quiet import start_tensorflow
from hcflow_tf.weights.store import CONFIG_FILE

if TYPE_CHECKING:
    from hcflow_tf.models.hcflow import HCFlow

BICUBIC = "bicubic"
"""The name of the built-in baseline."""

DEFAULT_DECODE_BYTES = 120_000
"""Memory per LR pixel where the runtime does not know its network: that of the largest recipe."""


class Runtime(abc.ABC):
    """A model that decodes and, where it can, encodes; NumPy arrays in and out.

    Images are [batch, height, width, 3] float32 RGB in [0, 1]; latents [z_1, ..., z_L], z_l of shape
    [batch, h_lr 2^(L-l), w_lr 2^(L-l), latent_channels[l-1]].

    Attributes:
      name: what the user called it.
      makes_lr: whether it makes the LR images that it restores (rescaling); else it takes bicubic ones (super-resolution).
      scale: width of hr over width of lr.
      latent_channels: channels of z_1, ..., z_L; empty if the runtime takes no latents (always temperature 0).
      fixed_lr_size: (height, width) of the only LR image that it takes, or None for any.
      can_encode: whether `encode` and `downscale` work.
      has_likelihood: whether `log_prob` works.
      overlap: LR pixels by which neighbouring tiles are to overlap on each side.
      decode_bytes: estimate of the memory that decoding takes, bytes per LR pixel.
      on_gpu: whether it computes on a GPU where TensorFlow sees one; else on the CPU always.
    """

    name: str
    makes_lr: bool = False
    scale: int
    latent_channels: tuple[int, ...]
    fixed_lr_size: tuple[int, int] | None = None
    can_encode: bool = True
    has_likelihood: bool = False
    overlap: int = MAX_OVERLAP
    decode_bytes: int = DEFAULT_DECODE_BYTES
    on_gpu: bool = False

    @abc.abstractmethod
    def decode(self, lr: np.ndarray, latents: Sequence[np.ndarray]) -> np.ndarray:
        """Returns hr [batch, scale h, scale w, 3], not clipped, of lr [batch, h, w, 3]."""

    def encode(self, hr: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Returns lr, neither clipped nor rounded, and the latents; height and width of hr divisible by the scale.

        Raises:
          HCFlowError: this runtime has no encoder.
        """
        raise HCFlowError(f"{self.name} has no encoder: export one, or give the model directory")

    def downscale(self, hr: np.ndarray) -> np.ndarray:
        """Only the LR image of `encode`, which may be much cheaper."""
        return self.encode(hr)[0]

    def log_prob(self, hr: np.ndarray, lr: np.ndarray) -> np.ndarray:
        """log p(hr | lr), [batch], nats.

        Raises:
          HCFlowError: this runtime computes no likelihood.
        """
        raise HCFlowError(f"{self.name} computes no likelihood: give the model directory")


class BicubicRuntime(Runtime):
    """The baseline: MATLAB's bicubic, up to decode and down to encode."""

    name = BICUBIC
    latent_channels = ()
    overlap = 4
    decode_bytes = 8_000

    def __init__(self, scale: int = 4):
        self.scale = scale

    def decode(self, lr: np.ndarray, latents: Sequence[np.ndarray] = ()) -> np.ndarray:
        """Returns the enlarged lr; there are no latents."""
        return _bicubic(lr, self.scale)

    def encode(self, hr: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Returns the shrunk hr, and no latents."""
        return _bicubic(hr, 1 / self.scale), []


def _bicubic(images: np.ndarray, scale: float) -> np.ndarray:
    return np.stack([_bicubic_image(image, scale) for image in images])


def _bicubic_image(image: np.ndarray, scale: float) -> np.ndarray:
    """8-bit values are resized as MATLAB resizes uint8, rounding after each pass: published figures are of those."""
    eight_bit = quantize(image)
    if np.allclose(eight_bit / np.float32(255), image, rtol=0.0, atol=1e-6):
        return imresize(eight_bit, scale).astype(np.float32) / np.float32(255)
    return imresize(image, scale).astype(np.float32)


class KerasRuntime(Runtime):
    """A model directory, in the folded inference form."""

    has_likelihood = True
    on_gpu = True

    def __init__(self, path_or_name: str | os.PathLike, *, guard: bool = True):
        """Loads the model.

        Args:
          path_or_name: as `hcflow_tf.load_model`.
          guard: cap the standard deviations of samples (`hcflow_tf.models.guard`) where the model has no bound of its own.

        Raises:
          HCFlowError: as `hcflow_tf.load_model`.
        """
        start_tensorflow()
        import tensorflow as tf

        from hcflow_tf.models.complexity import measure
        from hcflow_tf.models.folded import InferenceModel
        from hcflow_tf.models.guard import needs_guard
        from hcflow_tf.weights.store import load_model

        model = load_model(path_or_name)
        self._unguarded = model if guard and needs_guard(model) and model.log_std_caps is None else None
        self.name, self.makes_lr, self.scale = str(path_or_name), model.config.makes_lr, model.scale
        self.latent_channels, self.can_encode = model.latent_channels, not model.flow.needs_lr
        cost = measure(model.config, {name: weight.shape for name, weight in model.named_weights().items()})
        self.overlap, self.decode_bytes = cost.overlap, cost.decode_bytes
        self._inference = inference = InferenceModel(model)
        image, *latents = [tf.TensorSpec([None, None, None, channels]) for channels in (3, *self.latent_channels)]

        # Signatures that leave the size open: one tracing, which takes seconds, serves all images and tiles.
        def compiled(method: Callable, *inputs: tf.TensorSpec) -> Callable:
            return tf.function(method, input_signature=inputs, autograph=False)

        self._compile_decode = lambda: compiled(lambda lr, *z: inference.decode(lr, z, guard=guard), image, *latents)
        self._decode = self._compile_decode()
        self._encode = compiled(inference.encode, image)
        # Of the whole encoder, TensorFlow computes only what the LR image needs.
        self._downscale = compiled(lambda hr: inference.encode(hr)[0], image)
        self._log_prob = compiled(inference.log_prob, image, image)

    def decode(self, lr: np.ndarray, latents: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.decode`."""
        if self._unguarded is not None and any(np.any(latent) for latent in latents):
            self._measure_guard(self._unguarded)
        return self._decode(lr, *latents).numpy()

    def _measure_guard(self, model: HCFlow) -> None:
        """On the first sample of a model whose directory keeps no caps; `hcflow convert` and `ship` leave them there."""
        from hcflow_tf.models.guard import ensure_guard

        ensure_guard(model)
        self._inference.set_guard(model.log_std_caps)
        self._unguarded, self._decode = None, self._compile_decode()

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


_EXPORTED = {
    ".tflite": ("hcflow_tf.runtimes.tflite", "TFLiteRuntime"),
    ".onnx": ("hcflow_tf.runtimes.onnx", "OnnxRuntime"),
}


def open_runtime(model: str | os.PathLike, *, scale: int | None = None, guard: bool = True) -> Runtime:
    """Opens what `--model` names.

    Args:
      model: "bicubic", a model directory, the name of a shipped model, a SavedModel directory (or the directory of its
        versions, of which the highest is taken), a .tflite or an .onnx file.
      scale: the scale that is wanted; None takes the model's own, 4 for bicubic.
      guard: see `KerasRuntime`; an exported file carries its guard, or none.

    Raises:
      HCFlowError: it is none of these, it cannot be read, or its scale is another.
    """
    name, path = str(model), expand_user(model)
    if name == BICUBIC:
        return BicubicRuntime(scale or 4)
    runtime = _open(name, path, guard)
    if scale not in (None, runtime.scale):
        raise UsageError(f"--scale {scale} does not fit {name}, which is a model for x{runtime.scale}")
    return runtime


def _open(name: str, path: pathlib.Path, guard: bool) -> Runtime:
    if path.suffix in _EXPORTED:
        if not is_file(path):
            raise HCFlowError(f"no model at {name}: there is no such file")
        return _load(*_EXPORTED[path.suffix], path)
    if saved_model := _find_saved_model(path):
        return _load("hcflow_tf.runtimes.saved_model", "SavedModelRuntime", saved_model)
    if is_file(path):
        hint = "run `hcflow convert` on it first" if path.suffix == ".pth" else "a model directory holds config.yaml and weights"
        raise HCFlowError(f"{name} is not a model directory, a SavedModel directory, a .tflite or an .onnx file: {hint}")
    return KerasRuntime(name, guard=guard)


def is_model_directory(model: str | os.PathLike) -> bool:
    """Whether `--model` names weights of our own (or nothing at all), not the baseline or an exported file."""
    path = expand_user(model)
    return str(model) != BICUBIC and not is_file(path) and path.suffix not in _EXPORTED and not _find_saved_model(path)


def _find_saved_model(directory: pathlib.Path) -> pathlib.Path | None:
    """The directory itself or, as TF Serving lays them out, its highest version, if it is a SavedModel.

    A model directory stays one, also if it was exported into itself.
    """
    if not is_folder(directory) or is_file(directory / CONFIG_FILE):
        return None
    try:
        versions = sorted((entry for entry in directory.iterdir() if entry.name.isdecimal()), key=lambda entry: int(entry.name))
    except OSError as error:
        raise HCFlowError(f"{directory}: {error.strerror}") from error
    for candidate in (directory, *reversed(versions)):
        if is_file(candidate / "saved_model.pb"):
            return candidate
    return None


def _load(module: str, name: str, path: pathlib.Path) -> Runtime:
    return getattr(importlib.import_module(module), name)(path)
