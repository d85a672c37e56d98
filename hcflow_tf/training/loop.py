"""The training loop, from a config to a run directory; reads from top to bottom."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import sys
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from hcflow_tf.config import Config, load_config
from hcflow_tf.data.dataset import TrainingData, validation_pairs
from hcflow_tf.errors import HCFlowError
from hcflow_tf.model import HCFlow
from hcflow_tf.store import CONFIG_FILE, WEIGHTS_FILE, assign_weights, find_model, read_weights
from hcflow_tf.training.run_directory import RunDirectory, as_disk_error
from hcflow_tf.training.step import TrainingStep
from hcflow_tf.training.strategy import make_strategy
from hcflow_tf.training.validation import Pair, validate


def train(config: Config, run_dir: pathlib.Path, *, resume: str = "auto", devices: str = "auto") -> int:
    """Trains a model, or goes on where an earlier call stopped.

    Args:
      config: the run.
      run_dir: see `RunDirectory`; afterwards a model directory.
      resume: "auto" goes on with the run that the directory holds; "never" refuses such a directory.
      devices: see `make_strategy`.

    Returns:
      0, or 130 if it was interrupted (and has written a checkpoint).

    Raises:
      HCFlowError: bad input, a full disk, or gradients that stay non-finite; what was saved before is kept.
    """
    run = RunDirectory(run_dir, config, resume=resume)
    strategy = make_strategy(devices)
    # Grappler's fusion of convolution and LeakyReLU fails on gradient graphs, with an error message and no effect.
    tf.config.optimizer.set_experimental_options({"remapping": False})
    keras.utils.set_random_seed(config.training.seed)
    data = TrainingData(config, show_progress=True)
    print("\n".join(data.report.lines()))
    held_out = list(validation_pairs(config))

    with strategy.scope():
        training = config.training
        model = HCFlow(config.model, mixed_precision=training.mixed_precision, recompute=training.recompute)
        step = tf.Variable(0, dtype=tf.int64, trainable=False)
        best = tf.Variable(-np.inf, trainable=False)
    if training.start_from and not run.resuming:
        _load_start(model, config)
    training_step = TrainingStep(config, model, strategy)
    manager = run.checkpoints(_checkpoint(training_step, step, best))
    if run.resuming:
        _restore(manager, training_step)
    elif not training.start_from:
        first_batch, _ = next(iter(data.dataset(0, training.batch_size).take(1)))
        model.initialise_actnorm(first_batch)
        training_step.optimizer.read_weights()

    first = int(step)
    replicas = strategy.num_replicas_in_sync
    print(f"training {model.count_params():,} weights from step {first} to {training.steps} on {replicas} replica(s)")
    batches = iter(strategy.experimental_distribute_dataset(data.dataset(first, training.batch_size)))
    progress = _Progress(first, training.steps)
    skipped_in_row = 0
    with _interruptible() as interrupted:
        for current in range(first, training.steps):
            values, finite = training_step(*_next(batches), current)
            step.assign(current + 1)
            progress.add(values)

            skipped_in_row = 0 if finite else skipped_in_row + 1
            if skipped_in_row >= training.max_skipped_steps:
                raise HCFlowError(
                    f"step {current + 1}: the gradients were not finite {skipped_in_row} times in a row; "
                    f"the last good checkpoint is {manager.latest_checkpoint}; "
                    "lower optimizer.learning_rate or start from a trained model"
                )
            done = current + 1
            last = done == training.steps or interrupted()
            if done % training.log_every == 0 or last:
                run.log(done, progress.report(done, skipped_in_row), prefix="train")
            if held_out and (done % training.validate_every == 0 or done == training.steps):
                _validate(run, config, training_step, held_out, done, best)
            if last or (done % training.checkpoint_every == 0 and skipped_in_row == 0):
                _save(run, manager, config, training_step, done, last_is_best=not held_out)
            if interrupted():
                print(f"interrupted at step {done}; the same command goes on from here")
                return 130
    return 0


def _next(batches: Iterator) -> tuple[tf.Tensor, tf.Tensor]:
    try:
        return next(batches)
    except tf.errors.OpError as error:  # an image that was readable at the scan no longer is
        lines = [line for line in error.message.splitlines() if "Error: " in line] or [error.message]
        raise HCFlowError(f"reading the training images failed: {lines[0]}; the last checkpoint is kept") from error


def _load_start(model: HCFlow, config: Config) -> None:
    directory = find_model(config.training.start_from)
    other = load_config(directory / CONFIG_FILE).model
    if other != config.model:
        keys = [key for key, value in config.model.model_dump().items() if getattr(other, key) != value]
        raise HCFlowError(f"training.start_from: {directory} is another kind of model (model.{', model.'.join(keys)})")
    assign_weights(model, read_weights(directory / WEIGHTS_FILE), source=directory)


def _checkpoint(training_step: TrainingStep, step: tf.Variable, best: tf.Variable) -> tf.train.Checkpoint:
    """All that a resumed run needs; the data need only the step."""
    states = {name: tf.train.Checkpoint(**optimizer.state) for name, optimizer in training_step.optimizers.items()}
    return tf.train.Checkpoint(step=step, best=best, **states)


def _restore(manager: tf.train.CheckpointManager, training_step: TrainingStep) -> None:
    try:
        manager.checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise HCFlowError(f"cannot resume from {manager.latest_checkpoint}: {reason}; start with a new --run-dir") from error
    for optimizer in training_step.optimizers.values():
        optimizer.write_weights()


def _validate(
    run: RunDirectory, config: Config, training_step: TrainingStep, pairs: list[Pair], done: int, best: tf.Variable
) -> None:
    with training_step.optimizer.averaged_weights():
        figures, pictures = validate(training_step.model, pairs, config.losses.quantization_levels)
        score = figures["psnr_y" if config.model.task == "rescaling" else "psnr_rgb"]
        if score > float(best):
            best.assign(score)
            run.save_best(training_step.model)
    run.log(done, figures, prefix="validation")
    run.log_pictures(done, pictures)
    print("validation at step", done, " ".join(f"{name} {value:.3f}" for name, value in figures.items()))


def _save(
    run: RunDirectory,
    manager: tf.train.CheckpointManager,
    config: Config,
    training_step: TrainingStep,
    done: int,
    *,
    last_is_best: bool,
) -> None:
    try:
        manager.save(checkpoint_number=done)
    except (tf.errors.OpError, OSError) as error:
        raise as_disk_error(error, run.path / "checkpoints") from error
    with training_step.optimizer.averaged_weights():
        run.save_last(training_step.model, config, is_best=last_is_best)


class _Progress:
    """Means of the losses since the last report, the step rate and the time left."""

    def __init__(self, first: int, total: int):
        self._total = total
        self._start = self._reported = first
        self._start_time: float | None = None
        self._rows: list[dict[str, float]] = []

    def add(self, values: dict[str, float]) -> None:
        if self._start_time is None:  # the first step also builds the graph: not counted in the rate
            self._start_time, self._start = time.monotonic(), self._start + 1
        self._rows.append(values)

    def report(self, done: int, skipped: int) -> dict[str, float]:
        """Prints the line and returns its figures."""
        means = {name: float(np.mean([row[name] for row in self._rows if name in row])) for name in self._rows[-1]}
        elapsed = time.monotonic() - self._start_time
        rate = (done - self._start) / elapsed if done > self._start and elapsed > 0 else float("nan")
        left = (self._total - done) / rate if rate > 0 else 0.0
        losses = " ".join(f"{name} {value:.5g}" for name, value in means.items())
        note = f", {skipped} steps skipped in a row" if skipped else ""
        print(f"step {done}/{self._total} {losses}, {rate:.2f} steps/s, {_duration(left)} left{note}", flush=True)
        self._rows = []
        return {**means, "steps_per_second": rate if rate == rate else 0.0, "skipped_in_row": skipped}


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {seconds:02}s"


@contextlib.contextmanager
def _interruptible() -> Iterator:
    """Within the block, Ctrl-C and SIGTERM let the running step end and be saved; a second Ctrl-C stops at once."""
    caught: list[int] = []

    def handle(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("stopping after this step ...", file=sys.stderr)

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, where signals are not ours
        before = {}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
