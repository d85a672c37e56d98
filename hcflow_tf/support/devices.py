"""Which device computes."""

from __future__ import annotations

import functools
import re
import time

from hcflow_tf.support.errors import UsageError
from hcflow_tf.support.quiet import start_tensorflow


def select_device(name: str) -> None:
    """Makes TensorFlow compute on one device.

    Args:
      name: "auto" (the first GPU, else the CPU), "cpu", or "gpu:N"; "gpu" is gpu:0.

    Raises:
      UsageError: there is no such device, or TensorFlow is already computing on another.
    """
    if name == "auto":
        return
    match = re.fullmatch(r"cpu|gpu(?::(\d{1,4}))?", name)
    if not match:
        raise UsageError(f"--device {name}: expected auto, cpu or gpu:N")
    start_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    number = int(match[1] or 0)
    if name != "cpu" and number >= len(gpus):
        there = ", ".join(["cpu", *(f"gpu:{i}" for i in range(len(gpus)))])
        raise UsageError(f"--device {name}: there is no such device here; there is {there}")
    wanted = [] if name == "cpu" else [gpus[number]]
    if tf.config.get_visible_devices("GPU") == wanted:
        return
    try:
        tf.config.set_visible_devices(wanted, "GPU")
    except RuntimeError as error:
        raise UsageError(f"--device {name}: TensorFlow already computes on another device") from error


def check_on_gpu(name: str, model: str, on_gpu: bool) -> None:
    """Checks that a model computes on the device that was asked for.

    Raises:
      UsageError: a GPU was, and the model's kind computes on the CPU only.
    """
    if name.startswith("gpu") and not on_gpu:
        raise UsageError(f"--device {name}: {model} computes on the CPU only; give a model directory or a SavedModel")


def gpu_memory() -> int | None:
    """Bytes that TensorFlow may still take on the GPU that computes; None without one."""
    import tensorflow as tf

    if not tf.config.get_visible_devices("GPU"):
        return None
    limit = _gpu_memory_limit()
    return None if limit is None else max(0, limit - tf.config.experimental.get_memory_info("GPU:0")["current"])


@functools.cache
def _gpu_memory_limit() -> int | None:
    from tensorflow.python.client import device_lib

    return next((device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"), None)


@functools.cache
def bfloat16_slowdown() -> float:
    """Time of a 3x3 convolution and its gradients in bfloat16 over that in float32 on the CPU, measured within a second.

    Below 1 on idle processors with AVX512_BF16 or AMX; others emulate bfloat16, which takes several times as long.
    """
    import tensorflow as tf

    def best(dtype: str) -> float:
        x, kernel = tf.zeros([1, 24, 24, 64], dtype), tf.zeros([3, 3, 64, 32], dtype)
        seconds = []
        for _ in range(4):  # the first one prepares
            start = time.perf_counter()
            with tf.GradientTape() as tape:
                tape.watch((x, kernel))
                y = tf.nn.conv2d(x, kernel, 1, "SAME")
            tape.gradient(y, (x, kernel))
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    with tf.device("/CPU:0"):
        return best("bfloat16") / best("float32")
