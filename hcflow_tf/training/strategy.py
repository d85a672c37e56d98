"""Which devices and machines a run uses."""

from __future__ import annotations

import functools
import json
import os
import re

import tensorflow as tf

from hcflow_tf.support.errors import UsageError

SLURM_PORT = 8888
"""Port of the first task on each node, where Slurm starts the workers; HCFLOW_PORT changes it."""

MAX_TASKS_PER_NODE = 64


def make_strategy(devices: str = "auto") -> tf.distribute.Strategy:
    """A strategy over the named devices: no distribution for one, MirroredStrategy for several.

    Where TF_CONFIG names several workers, or Slurm started several tasks, it is a MultiWorkerMirroredStrategy over all
    of them, each with its own devices. Call it before any other operation then.

    Args:
      devices: "auto" (all GPUs, else the CPU), "gpu", "gpu:N", "cpu", or "cpu:N" (N logical devices, to test replicas).

    Raises:
      UsageError: the name is wrong, there are fewer devices than asked for, or the cluster's description is wrong.
    """
    match = re.fullmatch(r"(auto|gpu|cpu)(?::(\d+))?", devices)
    if not match or (match[1] == "auto" and match[2]) or match[2] == "0":
        raise UsageError(f"--devices {devices}: expected auto, gpu, gpu:N, cpu or cpu:N")
    gpus = tf.config.list_physical_devices("GPU")
    if match[1] == "gpu" and len(gpus) < int(match[2] or 1):
        raise UsageError(f"--devices {devices}: this machine shows TensorFlow {len(gpus)} GPUs")
    gpus = [] if match[1] == "cpu" else gpus[: int(match[2] or len(gpus))]
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    cluster = _cluster(len(gpus))
    if cluster is None:
        return _over(*(f"GPU:{index}" for index in range(len(gpus))) if gpus else _logical_cpus(int(match[2] or 1)))
    if not gpus and int(match[2] or 1) > 1:
        raise UsageError(f"--devices {devices}: a worker of several takes one CPU device; start more workers instead")
    tf.config.set_visible_devices(gpus, "GPU")  # a worker takes all that it sees
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UsageError(f"cannot join the other workers: {' '.join(str(error).split())[:300]}") from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes; always without other workers."""
    return strategy.extended.should_checkpoint


def sum_over_workers(strategy: tf.distribute.Strategy, value: float) -> float:
    """The sum of the values that the processes of a run give; all of them must call it."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return value
    local = strategy.num_replicas_in_sync // worker_count(strategy)
    per_replica = strategy.experimental_distribute_values_from_function(lambda _: tf.constant(value / local, tf.float64))
    return float(strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None))


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """The number of processes that train together."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    return sum(len(tasks) for tasks in strategy.cluster_resolver.cluster_spec().as_dict().values())


def check_batch_size(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Refuses a global batch that the replicas cannot share evenly: they would not take the step that one device takes.

    Raises:
      UsageError: it names the next sizes that they can.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        below = batch_size // replicas * replicas
        nearest = " or ".join(str(size) for size in (below, below + replicas) if size)
        raise UsageError(f"training.batch_size: {batch_size} is not divisible by the {replicas} replicas; use {nearest}")


def _cluster(gpus: int) -> tf.distribute.cluster_resolver.ClusterResolver | None:
    """The workers that TF_CONFIG or Slurm names; None if there is only this one.

    Args:
      gpus: of this worker.
    """
    resolvers = tf.distribute.cluster_resolver
    try:
        if json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster"):
            resolver = resolvers.TFConfigClusterResolver()
        elif int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
            # The resolver's own division of GPUs fails where there are none: these numbers only keep it quiet.
            port = int(os.environ.get("HCFLOW_PORT") or SLURM_PORT)
            resolver = resolvers.SlurmClusterResolver(
                port_base=port, gpus_per_node=MAX_TASKS_PER_NODE, gpus_per_task=1, auto_set_gpu=False
            )
        else:
            return None
        spec = resolver.cluster_spec()
        workers = sum(len(tasks) for job, tasks in spec.as_dict().items() if job in ("chief", "worker"))
        if resolver.task_type not in ("chief", "worker") or set(spec.jobs) - {"chief", "worker"}:
            raise ValueError(f"tasks are of the types chief and worker, got {resolver.task_type} among {', '.join(spec.jobs)}")
        spec.task_address(resolver.task_type, resolver.task_id)  # raises where there is no such task
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        source = "TF_CONFIG" if os.environ.get("TF_CONFIG") else "the Slurm environment"
        raise UsageError(f"{source} does not describe a cluster: {error}; docs/training.md has an example") from error
    if workers < 2:
        return None
    return resolvers.SimpleClusterResolver(
        spec, task_type=resolver.task_type, task_id=resolver.task_id, num_accelerators={"GPU": gpus}, rpc_layer="grpc"
    )


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
