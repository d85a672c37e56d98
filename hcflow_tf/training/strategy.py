"""Which devices a run uses."""

from __future__ import annotations

import functools
import re

import tensorflow as tf

from hcflow_tf.errors import UsageError


def make_strategy(devices: str = "auto") -> tf.distribute.Strategy:
    """A strategy over the named devices: no distribution for one, MirroredStrategy for several.

    Args:
      devices: "auto" (all GPUs, else the CPU), "gpu", "gpu:N", "cpu", or "cpu:N" (N logical devices, to test replicas).

    Raises:
      UsageError: the name is wrong, or there are fewer devices than asked for.
    """
    match = re.fullmatch(r"(auto|gpu|cpu)(?::(\d+))?", devices)
    if not match or (match[1] == "auto" and match[2]) or match[2] == "0":
        raise UsageError(f"--devices {devices}: expected auto, gpu, gpu:N, cpu or cpu:N")
    gpus = tf.config.list_physical_devices("GPU")
    if match[1] == "gpu" and len(gpus) < int(match[2] or 1):
        raise UsageError(f"--devices {devices}: this machine shows TensorFlow {len(gpus)} GPUs")
    if match[1] == "cpu" or not gpus:
        return _over(*_logical_cpus(int(match[2] or 1)))
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return _over(*(f"GPU:{index}" for index in range(int(match[2] or len(gpus)))))


def _logical_cpus(count: int) -> list[str]:
    if count > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
        except RuntimeError as error:  # TensorFlow has started, which fixes the number of its devices
            if len(tf.config.list_logical_devices("CPU")) < count:
                raise UsageError(f"--devices cpu:{count}: TensorFlow has already started with fewer CPU devices") from error
    return [f"CPU:{index}" for index in range(count)]


@functools.cache
def _over(*names: str) -> tf.distribute.Strategy:
    """One strategy for the same devices: two MirroredStrategies in a process would mix up their collective operations."""
    return tf.distribute.OneDeviceStrategy(names[0]) if len(names) == 1 else tf.distribute.MirroredStrategy(list(names))
