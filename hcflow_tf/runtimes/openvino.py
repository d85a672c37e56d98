"""Runs an .onnx file made by export/export_onnx.py with OpenVINO on the CPU, in float32 or bfloat16."""

from __future__ import annotations

import functools
import os
import pathlib
import sys
import threading
from typing import Any, Literal

from hcflow_tf.runtimes.onnx import OnnxGraph, OnnxRuntime, not_readable
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.quiet import held_back_stderr

_LOCK = threading.Lock()
Precision = Literal["float32", "bfloat16"]


class OpenVINORuntime(OnnxRuntime):
    """A decoder, with the encoder beside it where there is one; the encoder always computes in float32.

    An LR image is rounded to 8 bits: what bfloat16 loses there, no decoder brings back.
    """

    def __init__(self, path: str | os.PathLike, precision: Precision = "float32"):
        """Opens the file.

        Args:
          path: of the .onnx file.
          precision: of the decoder.

        Raises:
          HCFlowError: it is no such file, or OpenVINO is not installed.
          UsageError: this CPU has no bfloat16.
        """
        try:
            self._core, self._precision = _core(), precision
        except ImportError as error:
            raise HCFlowError(f"{path}: needs OpenVINO: pip install hcflow_tf[openvino]") from error
        if precision == "bfloat16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UsageError("--precision bfloat16: this CPU does not compute in bfloat16 (AVX512_BF16 or AMX); take float32")
        super().__init__(path)

    def open_decoder(self, path: pathlib.Path) -> OnnxGraph:
        """See `OnnxRuntime.open_decoder`."""
        return _open(self._core, path, self._precision)

    def open_encoder(self, path: pathlib.Path) -> OnnxGraph:
        """See `OnnxRuntime.open_encoder`."""
        return _open(self._core, path, "float32")


def _core() -> Any:
    with _LOCK:
        return _only_core()


@functools.cache
def _only_core() -> Any:
    """OpenVINO itself, one for the process.

    Each would put the main thread's signals on a stack of its own, and take that away in the end; where two end in the order
    in which they began, the next signal finds none and kills the process.

    Raises:
      ImportError: it is not installed.
    """
    for module in ("openvino_telemetry", "openvino_telemetry.backend"):
        sys.modules.setdefault(module, None)  # type: ignore[arg-type]  # as if not installed: it reports imports to its makers
    import openvino

    return openvino.Core()


def _open(core: Any, path: pathlib.Path, precision: Precision) -> OnnxGraph:
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    try:
        with held_back_stderr(show_on_failure=False):  # of a damaged file every reader complains in turn
            model = core.read_model(path)
        request = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint}).create_infer_request()
    except Exception as error:  # OpenVINO's are plain RuntimeErrors, and others
        raise not_readable(path, error) from error
    inputs = {
        value.get_any_name(): [side.get_length() if side.is_static else -1 for side in value.get_partial_shape()]
        for value in model.inputs
    }
    outputs = [value.get_any_name() for value in model.outputs]
    metadata = model.get_rt_info(["framework"]).value if model.has_rt_info(["framework"]) else {}

    def run(values: Any) -> list:
        results = request.infer(dict(values), share_inputs=True)
        return [results[name].copy() for name in outputs]  # the request's own memory is written again next time

    return OnnxGraph(inputs, outputs, metadata, run)
