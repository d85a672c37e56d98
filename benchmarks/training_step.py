"""Memory and time of a training step with and without `training.recompute`, oneDNN, Winograd or a repeated border, in one run.

    python benchmarks/training_step.py --config configs/sr_x4.yaml [--compare recompute|onednn|winograd|padding]
      [--set KEY=VALUE ...] [--batch 2] [--rounds 5]

Every setting lives in its own process (so that its peak memory is its own) and takes the same steps on the same random
batch, one after the other, round by round (so that what slows the machine slows all of them). The memory is the peak
from the first step on, its tracing included, beyond what the process held before it. Ratios are to the plain setting;
that of the time is the median of the rounds' ratios. The difference of the gradients of the first step is relative to
the norm of the plain one: of all weights as one vector, and of the one weight where it is largest. Two paddings are two
functions, whose gradients differ in truth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # so that a checkout works without being installed

from hcflow_tf.metrics.table import format_table

SWITCH = "HCFLOW_WINOGRAD"
"""`hcflow_tf.networks.winograd.SWITCH`, without TensorFlow, which each process imports for itself."""
SETTINGS = {
    "recompute": {"plain": ({}, "training.recompute=false"), "recompute": ({}, "training.recompute=true")},
    "onednn": {
        "without oneDNN": ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "training.recompute=false"),
        "oneDNN": ({"TF_ENABLE_ONEDNN_OPTS": "1"}, "training.recompute=false"),
    },
    "winograd": {
        "direct": ({SWITCH: "0"}, "training.recompute=false"),
        "Winograd": ({SWITCH: "1"}, "training.recompute=false"),
    },
    "padding": {"zeros": ({}, "model.padding=zeros"), "replicate": ({}, "model.padding=replicate")},
}
"""What is compared: of each setting its environment and its override of the config; the first one is the plain one."""
WEIGHT_NOISE = 0.005
"""Added to every weight: layers that start at zero would give the weights before them no gradient to compare."""


def main() -> None:
    """Runs the benchmark, prints the table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML config of the training")
    parser.add_argument("--compare", choices=SETTINGS, default="recompute", help="what with and without (default recompute)")
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="overrides of its values")
    parser.add_argument("--batch", type=int, default=2, help="images per step (default 2)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", metavar="FILE", help="JSON file for the figures")
    args = parser.parse_args()
    overrides = [*args.set, f"training.batch_size={args.batch}", "optimizer.clip_value=null", "optimizer.clip_norm=null"]
    context = multiprocessing.get_context("spawn")
    pipes = []
    for environment, override in SETTINGS[args.compare].values():
        here, there = context.Pipe()
        context.Process(target=_work, args=(there, environment, args.config, [*overrides, override]), daemon=True).start()
        there.close()  # so that receiving fails if the process has died
        pipes.append(here)
        here.recv()  # traced, before the next one starts
    seconds = np.array([[_ask(pipe, "step") for pipe in pipes] for _ in range(args.rounds)])
    facts = [_ask(pipe, "facts") for pipe in pipes]
    figures = _figures(SETTINGS[args.compare], seconds, facts)
    print(_title(args, facts[0]["crop"]) + "\n" + _table(figures))
    if args.output:
        report = {name: getattr(args, name) for name in ("config", "compare", "set", "batch", "rounds")} | {"settings": figures}
        pathlib.Path(args.output).write_text(json.dumps(report, indent=2) + "\n")


def _ask(pipe: Connection, what: str) -> Any:
    pipe.send(what)
    return pipe.recv()


def _work(pipe: Connection, environment: dict[str, str], config_file: str, overrides: list[str]) -> None:
    """Answers "step" with the seconds of one step, "facts" with memory and the first step's gradient, until its pipe closes."""
    os.environ |= environment
    import keras
    import tensorflow as tf

    from hcflow_tf.config import load_config
    from hcflow_tf.models.systems import make_model
    from hcflow_tf.training.step import TrainingStep
    from hcflow_tf.training.strategy import make_strategy

    config = load_config(config_file, overrides)
    strategy = make_strategy()
    tf.config.optimizer.set_experimental_options({"remapping": False})  # as in training
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    with strategy.scope():
        model = make_model(config.model, mixed_precision=config.training.mixed_precision, recompute=config.training.recompute)
    for variable in model.weights:
        variable.assign_add(WEIGHT_NOISE * rng.standard_normal(variable.shape))
    step = TrainingStep(config, model, strategy)
    crop, scale = config.data.crop_size, config.model.scale
    hr = rng.random((config.training.batch_size, crop, crop, 3), np.float32)
    lr = hr.reshape(len(hr), crop // scale, scale, crop // scale, scale, 3).mean(axis=(2, 4))
    hr, lr = tf.constant(hr), tf.constant(lr)
    before = _memory(peak=False)
    step(hr, lr, 0)
    gradient = _gradient(step)
    pipe.send("ready")
    steps = 1
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        if request == "step":
            start = time.perf_counter()
            step(hr, lr, steps)
            pipe.send(time.perf_counter() - start)
            steps += 1
        else:
            memory = _memory(peak=True) - before
            pipe.send({"crop": crop, "memory": memory, "before": before, "gradient": gradient})


def _gradient(step: Any) -> list[np.ndarray]:
    """That of the first step for each weight, from Adam's first moment; without clipping they differ by a factor alone."""
    moments = {name: value for name, value in step.optimizer.state.items() if name.startswith("momentum/")}
    return [moments[name].ravel() / (1 - step.config.optimizer.beta_1) for name in sorted(moments)]


def _memory(*, peak: bool) -> float:
    """MiB in use, of the first GPU where there is one, else resident; or the most there ever was."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak" if peak else "current"] / 2**20
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _figures(names: Iterable[str], seconds: np.ndarray, facts: list[dict]) -> dict[str, dict[str, float]]:
    plain = facts[0]["gradient"]
    figures = {}
    for column, (name, fact) in enumerate(zip(names, facts, strict=True)):
        figures[name] = {
            "memory_mib": fact["memory"],
            "memory_ratio": fact["memory"] / facts[0]["memory"],
            "memory_before_mib": fact["before"],
            "seconds_min": seconds[:, column].min(),
            "seconds_median": statistics.median(seconds[:, column]),
            "seconds_max": seconds[:, column].max(),
            "seconds_ratio": statistics.median(seconds[:, column] / seconds[:, 0]),
            "gradient_difference": _difference(np.concatenate(fact["gradient"]), np.concatenate(plain)),
            "largest_weight_difference": max(map(_difference, fact["gradient"], plain)),
        }
    return figures


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Relative to the norm of b."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if b.any() else float(a.any())


def _title(args: argparse.Namespace, crop: int) -> str:
    options = " ".join([pathlib.Path(args.config).name, *args.set])
    return f"{options}: {crop} x {crop} HR pixels, batch {args.batch}, {args.rounds} rounds"


def _table(figures: dict[str, dict[str, float]]) -> str:
    header = ["setting", "peak MiB", "ratio", "s per step, median (range)", "ratio", "gradient difference", "largest of a weight"]
    return format_table(
        header,
        [
            [
                name,
                f"{row['memory_mib']:,.0f}",
                f"{row['memory_ratio']:.2f}",
                f"{row['seconds_median']:.2f} ({row['seconds_min']:.2f} to {row['seconds_max']:.2f})",
                f"{row['seconds_ratio']:.2f}",
                f"{row['gradient_difference']:.1e}",
                f"{row['largest_weight_difference']:.1e}",
            ]
            for name, row in figures.items()
        ],
    )


if __name__ == "__main__":
    main()
