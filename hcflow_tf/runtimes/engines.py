"""Model directories in engines that others wrote: ONNX Runtime, OpenVINO, LiteRT.

An engine reads a file. It is exported once per model, checked against the weights as every export is, and kept in a cache
under a name that no other model, guard or version of this program shares; from then on the engine starts without TensorFlow.
What a file has no place for (likelihood, the latents of an HR image) the weights compute.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import math
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from hcflow_tf import __version__
from hcflow_tf.runtimes.keras import KerasRuntime
from hcflow_tf.runtimes.runtime import Runtime
from hcflow_tf.support.errors import HCFlowError, UsageError, complain
from hcflow_tf.support.files import cache_folder, encoder_path, write_atomically
from hcflow_tf.support.latents import Latent, latent_shapes
from hcflow_tf.support.quiet import held_back_stderr, start_tensorflow
from hcflow_tf.weights.store import CONFIG_FILE, GUARD_FILE, WEIGHTS_FILE, find_model

FACTS_FILE = "facts.json"
"""Written last: with it, the files of an engine are complete. It holds `Facts`, and a digest of them and the files."""
FASTEST_FILE = "fastest.json"
MEASURED_SIDE, MEASURED_ROUNDS = 96, 5

PRECISIONS = {"keras": ("float32",), "onnx": ("float32",), "openvino": ("float32", "bfloat16"), "litert": ("float32", "int8")}
"""What each engine computes in, in which float32 is exact to 1e-4 of the largest value."""
SUFFIXES = {"onnx": ".onnx", "openvino": ".onnx", "litert": ".tflite"}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What `Runtime` says of a model; see there."""

    scale: int
    makes_lr: bool
    latents: tuple[Latent, ...]
    can_encode: bool
    can_downscale: bool
    has_likelihood: bool
    overlap: int
    decode_bytes: int

    @classmethod
    def of(cls, runtime: Runtime) -> Facts:
        """Those of a runtime."""
        return cls(**{field.name: getattr(runtime, field.name) for field in dataclasses.fields(cls)})

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Facts:
        """Of a file."""
        return cls(**facts | {"latents": tuple(Latent(*latent) for latent in facts["latents"])})


class EngineRuntime(Runtime):
    """A model directory whose decoder, and LR images where the model makes them, an engine computes, and the rest Keras."""

    def __init__(self, name: str, decoder: Runtime, facts: Facts, *, guard: bool = True, exact_lr: bool = True):
        """Makes one of its parts.

        Args:
          name: of the model.
          decoder: the engine's, which may take no latents.
          facts: of the model.
          guard: as Keras'.
          exact_lr: whether the engine's encoder, where it has one, computes in float32: an LR image is rounded to 8 bits, and
            what it loses before, no decoder brings back.
        """
        self.name, self._decoder, self._guard = name, decoder, guard
        self._makes_lr_exactly = decoder.can_downscale and exact_lr
        self.scale, self.makes_lr, self.latents, self.can_encode = facts.scale, facts.makes_lr, facts.latents, facts.can_encode
        self._can_downscale, self.has_likelihood = facts.can_downscale, facts.has_likelihood
        self.overlap, self.decode_bytes = facts.overlap, facts.decode_bytes
        self.fixed_lr_size = decoder.fixed_lr_size

    @functools.cached_property
    def _keras(self) -> KerasRuntime:
        return KerasRuntime(self.name, guard=self._guard)

    @property
    def can_downscale(self) -> bool:
        """See `Runtime.can_downscale`."""
        return self._can_downscale

    def decode(self, lr: np.ndarray, latents: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.decode`."""
        if not self._decoder.latents:
            return self._keras.decode(lr, latents) if any(map(np.any, latents)) else self._decoder.decode(lr, [])
        return self._decoder.decode(lr, latents)

    def encode(self, hr: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """See `Runtime.encode`."""
        return self._keras.encode(hr)

    def downscale(self, hr: np.ndarray) -> np.ndarray:
        """See `Runtime.downscale`."""
        return self._decoder.downscale(hr) if self._makes_lr_exactly else self._keras.downscale(hr)

    def log_prob(self, hr: np.ndarray, lr: np.ndarray) -> np.ndarray:
        """See `Runtime.log_prob`."""
        return self._keras.log_prob(hr, lr)


def open_engine_file(path: pathlib.Path, engine: str, precision: str) -> Runtime:
    """An exported file in an engine that reads it, and by default the one that it is made for.

    Raises:
      UsageError: the engine does not read such a file, or does not compute in this precision.
      HCFlowError: it cannot be opened.
    """
    fitting = [name for name, suffix in SUFFIXES.items() if suffix == path.suffix]
    if engine == "auto":
        engine = next((name for name in fitting if precision in PRECISIONS[name]), fitting[0])
    if engine not in fitting:
        raise UsageError(f"--runtime {engine} does not read {path}: a {path.suffix} file is run by {' or '.join(fitting)}")
    if engine == "litert" and precision != "float32":
        raise UsageError(f"--precision {precision}: {path} has the precision that it was exported with")
    able = [name for name, precisions in PRECISIONS.items() if precision in precisions]
    if able and not set(able) & set(fitting):
        raise UsageError(
            f"--precision {precision}: no engine for {path} has it; give the model directory and --runtime {able[0]}"
        )
    _check_precision(engine, precision)
    return _open(path, engine, precision)


def engine_runtime(name: str | os.PathLike, engine: str, precision: str, *, guard: bool = True) -> Runtime:
    """A model directory or shipped model in an engine.

    Args:
      name: of the model.
      engine: of `PRECISIONS`, or "auto": the one for the precision; in float32, Keras.
      precision: of decoding.
      guard: see `KerasRuntime`.

    Raises:
      UsageError: the engine does not compute in this precision.
      HCFlowError: no such model, or the engine is not installed.
    """
    if engine == "auto":
        engine = next((each for each, precisions in PRECISIONS.items() if precision in precisions), engine)
    _check_precision(engine, precision)
    if engine == "keras":
        return KerasRuntime(name, guard=guard)
    path, facts = _files(str(name), engine, precision, guard)
    return EngineRuntime(str(name), _open(path, engine, precision), facts, guard=guard, exact_lr=precision != "int8")


def _check_precision(engine: str, precision: str) -> None:
    known = dict.fromkeys(name for precisions in PRECISIONS.values() for name in precisions)
    if precision not in known:
        raise UsageError(f"--precision {precision}: there is {', '.join(known)}")
    if engine not in PRECISIONS:
        raise UsageError(f"--runtime {engine}: there is auto, {', '.join(PRECISIONS)}")
    if precision not in PRECISIONS[engine]:
        able = " or ".join(f"--runtime {each}" for each, precisions in PRECISIONS.items() if precision in precisions)
        raise UsageError(f"--precision {precision}: {engine} computes in {' or '.join(PRECISIONS[engine])}; take {able}")


def _open(path: pathlib.Path, engine: str, precision: str) -> Runtime:
    if engine == "litert":
        from hcflow_tf.runtimes.tflite import TFLiteRuntime

        return TFLiteRuntime(path)
    if engine == "openvino":
        from hcflow_tf.runtimes.openvino import OpenVINORuntime

        return OpenVINORuntime(path, "bfloat16" if precision == "bfloat16" else "float32")
    from hcflow_tf.runtimes.onnx import OnnxRuntime

    return OnnxRuntime(path)


def _files(name: str, engine: str, precision: str, guard: bool) -> tuple[pathlib.Path, Facts]:
    """The decoder's file in the cache, exported if it is not there, and what the model is."""
    suffix = SUFFIXES[engine]
    kind = "int8" if precision == "int8" else "float32"
    folder = _folder(name, guard) / f"{kind}{suffix}"
    path = folder / f"decoder{suffix}"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        record = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        if record["digest"] == _digest(path, record["facts"]):
            return path, Facts.from_json(record["facts"])
    complain("hcflow: note", f"{name}: exporting it once for --runtime {engine}, to {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HCFlowError(f"{folder}: {error.strerror}; XDG_CACHE_HOME names another place") from error
    start_tensorflow()
    with held_back_stderr(), contextlib.redirect_stdout(sys.stderr):
        _export(name, path, kind, guard)
    facts = Facts.of(KerasRuntime(name, guard=guard))
    values = json.loads(json.dumps(dataclasses.asdict(facts)))
    write_atomically(folder / FACTS_FILE, (json.dumps({"facts": values, "digest": _digest(path, values)}) + "\n").encode())
    return path, facts


def _digest(decoder: pathlib.Path, facts: dict[str, Any]) -> str:
    """Of an engine's files; with the facts, so that damage shows wherever it is.

    Raises:
      OSError: there is no decoder.
    """
    digest = hashlib.sha256(json.dumps(facts).encode())
    encoder = encoder_path(decoder)
    for path in (decoder, *([encoder] if encoder.is_file() else [])):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _folder(name: str | os.PathLike, guard: bool) -> pathlib.Path:
    """Of a model's files in the cache."""
    return cache_folder() / "engines" / _key(find_model(name), guard)


def _key(directory: pathlib.Path, guard: bool) -> str:
    """Of everything that the files are made of."""
    digest = hashlib.sha256(f"{__version__} guard {guard}".encode())
    for file in (CONFIG_FILE, WEIGHTS_FILE, GUARD_FILE):
        path = directory / file
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"none")
    return digest.hexdigest()[:32]


def _export(name: str, path: pathlib.Path, precision: str, guard: bool) -> None:
    options = ["--model", name, "--output", str(path), "--overwrite", "--precision", precision]
    if path.suffix == ".onnx":
        from hcflow_tf.runtimes import onnx_export as writer
    else:
        from hcflow_tf.runtimes import tflite_export as writer  # type: ignore[no-redef]

        options.append("--dynamic")
    parser = argparse.ArgumentParser()
    writer.add_arguments(parser)
    writer.run(parser.parse_args(options if guard else [*options, "--no-guard"]))


def fastest_runtime(name: str | os.PathLike, *, guard: bool = True) -> Runtime:
    """The model in the engine that decodes it fastest on this machine in float32: Keras, or OpenVINO where it is installed.

    Measured once, in turn, at temperature 0, and kept beside the engine's files. Where the engine cannot be made ready (no
    exporter, no room for its files), that is said, and Keras it is.

    Raises:
      HCFlowError: no such model.
    """
    if importlib.util.find_spec("openvino") is None:
        return KerasRuntime(name, guard=guard)
    record = _folder(name, guard) / FASTEST_FILE
    try:
        openvino, keras = engine_runtime(name, "openvino", "float32", guard=guard), None
        seconds = _measured(record)
        if seconds is None:
            keras = KerasRuntime(name, guard=guard)
            seconds = _measure({"openvino": openvino, "keras": keras})
            write_atomically(record, (json.dumps(seconds) + "\n").encode())
    except HCFlowError as error:
        complain("hcflow: note", f"{name} runs with --runtime keras: {error}")
        return KerasRuntime(name, guard=guard)
    best = min(seconds, key=lambda engine: seconds[engine])
    times = ", ".join(f"{engine} {1e6 * value / MEASURED_SIDE**2:.0f}" for engine, value in seconds.items())
    complain("hcflow: note", f"{name} runs with --runtime {best}, measured here in microseconds per LR pixel: {times}")
    return openvino if best == "openvino" else keras or KerasRuntime(name, guard=guard)


def _measured(record: pathlib.Path) -> dict[str, float] | None:
    """What `fastest_runtime` has written, if that is it."""
    try:
        seconds = {str(engine): float(value) for engine, value in json.loads(record.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return (
        seconds if seconds.keys() == {"openvino", "keras"} and all(0 < value < math.inf for value in seconds.values()) else None
    )


def _measure(runtimes: dict[str, Runtime]) -> dict[str, float]:
    """Median seconds of decoding a noise image, all runtimes in turn."""
    lr = np.random.default_rng(0).random((1, MEASURED_SIDE, MEASURED_SIDE, 3), np.float32)
    seconds: dict[str, list[float]] = {engine: [] for engine in runtimes}
    for number in range(MEASURED_ROUNDS + 1):
        for engine, runtime in runtimes.items():
            shapes = latent_shapes(MEASURED_SIDE, MEASURED_SIDE, runtime.scale, runtime.latents)
            start = time.perf_counter()
            runtime.decode(lr, [np.zeros([1, *shape], np.float32) for shape in shapes])
            if number:  # the first builds the graphs
                seconds[engine].append(time.perf_counter() - start)
    return {engine: statistics.median(times) for engine, times in seconds.items()}
