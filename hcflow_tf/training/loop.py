"""The training loop, from a config to a run directory; reads from top to bottom."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from hcflow_tf.config import Config, SystemConfig, load_config
from hcflow_tf.config.schema import DIVERGING
from hcflow_tf.data.dataset import TrainingData, validation_pairs
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.files import is_file
from hcflow_tf.training.checkpoint import Checkpoints, State
from hcflow_tf.training.growth import grow, obstacles
from hcflow_tf.training.memory import training_model
from hcflow_tf.training.run_directory import RunDirectory
from hcflow_tf.training.step import TrainingStep
from hcflow_tf.training.stop_signals import stop_signals
from hcflow_tf.training.strategy import check_batch_size, is_chief, make_strategy, sum_over_workers, worker_count
from hcflow_tf.training.validation import Pair, validate
from hcflow_tf.weights.store import CONFIG_FILE, WEIGHTS_FILE, assign_weights, check_fits, find_model, read_weights


@dataclasses.dataclass
class Progress:
    """How far a run is, as its checkpoints keep it beside the weights.

    Attributes:
      step: steps taken.
      best: the best validation PSNR so far, dB.
      rate_factor: of the learning rates; halved whenever the run goes back to a checkpoint.
      rollbacks: how often it went back.
      skipped: steps that were skipped because a loss or a gradient was not finite.
    """

    step: int = 0
    best: float = -math.inf
    rate_factor: float = 1.0
    rollbacks: int = 0
    skipped: int = 0


def train(config: Config, run_dir: pathlib.Path, *, resume: str = "auto", devices: str = "auto") -> int:
    """Trains a model, or goes on where an earlier call stopped.

    Args:
      config: the run.
      run_dir: see `RunDirectory`; afterwards a model directory.
      resume: "auto" goes on with the run that the directory holds; "never" refuses such a directory.
      devices: see `make_strategy`.

    Returns:
      0, or 130 or 143 if SIGINT or SIGTERM stopped it (and it has written a checkpoint).

    Raises:
      HCFlowError: bad input, a full disk, a lost worker, or gradients that stay non-finite; what was saved is kept.
    """
    resuming = bool(Checkpoints(run_dir / "checkpoints"))
    if not resuming:
        for problem in config.in_vain():
            raise UsageError(problem)
    _check_files(config, resuming=resuming)
    strategy = make_strategy(devices)
    check_batch_size(config.training.batch_size, strategy)
    run = RunDirectory(run_dir, config, resume=resume, writes=is_chief(strategy))
    # Grappler's fusion of convolution and LeakyReLU fails on gradient graphs, with an error message and no effect.
    tf.config.optimizer.set_experimental_options({"remapping": False})
    keras.utils.set_random_seed(config.training.seed)
    data = TrainingData(config, show_progress=run.writes)
    say = print if run.writes else _silent
    say("\n".join(data.report.lines()))
    held_out = list(validation_pairs(config))
    try:
        return _train(config, run, strategy, data, held_out, say)
    except tf.errors.OpError as error:
        if worker_count(strategy) > 1 and isinstance(error, _LOST_WORKER):
            raise _lost_worker(error, strategy) from error
        raise


def _train(config: Config, run: RunDirectory, strategy, data: TrainingData, held_out: list[Pair], say) -> int:
    training = config.training
    model = training_model(config, strategy, say)
    training_step = TrainingStep(config, model, strategy)
    if run.resuming:
        progress = _restore(run, training_step)
        run.forget_after(progress.step)
    else:
        progress = Progress()
        _initialise(training_step, data)
        _save_checkpoint(run, training_step, progress)
    _check_agreement(strategy, progress.step, run.path)

    workers, replicas = worker_count(strategy), strategy.num_replicas_in_sync
    where = f"{replicas} replica(s)" + (f" of {workers} workers" if workers > 1 else "")
    say(f"training {model.count_params():,} weights from step {progress.step} to {training.steps} on {where}", flush=True)
    batches, report = _batches(strategy, data, config, progress), _Report(progress, training.steps)
    skipped_in_row = 0
    with stop_signals() as stop:
        while progress.step < training.steps:
            hr, lr, given = _next(batches)
            values, bad = training_step(hr, lr, progress.step, given=given, rate_factor=progress.rate_factor)
            progress.step += 1
            report.add(values)

            skipped_in_row = skipped_in_row + 1 if bad else 0
            if bad:
                progress.skipped += 1
                run.log(progress.step, {"not_finite": ", ".join(bad)}, kind="skipped")
                say(f"step {progress.step} skipped: {', '.join(bad)} not finite", flush=True)
            if skipped_in_row >= training.max_skipped_steps:
                progress = _go_back(run, training_step, progress, skipped_in_row, bad, say)
                batches, report = _batches(strategy, data, config, progress), _Report(progress, training.steps)
                skipped_in_row = 0
                continue

            stopping = sum_over_workers(strategy, float(stop.signal > 0)) > 0
            last = stopping or progress.step == training.steps
            if progress.step % training.log_every == 0 or last:
                line, figures = report.means(progress)
                say(line, flush=True)
                run.log(progress.step, figures, kind="train")
            if progress.step == training.steps and not training_step.optimizer.steps:
                raise HCFlowError(_nothing_trained(training.steps, bad))
            if held_out and (progress.step % training.validate_every == 0 or progress.step == training.steps) and run.writes:
                _validate(run, config, training_step, held_out, progress)
            if last or (progress.step % training.checkpoint_every == 0 and not skipped_in_row):
                _save(run, config, training_step, progress, last_is_best=not held_out)
            if stopping and progress.step < training.steps:
                say(f"stopped at step {progress.step}; the same command goes on from here")
                return stop.exit_code
    return 0


_LOST_WORKER = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError, tf.errors.CancelledError)
"""What collective operations raise when another process has ended."""


def _lost_worker(error: tf.errors.OpError, strategy: tf.distribute.Strategy) -> HCFlowError:
    resolver = strategy.cluster_resolver
    named = {(job, int(task)) for job, task in re.findall(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)", error.message)}
    others = named - {(resolver.task_type, resolver.task_id)}
    which = "{} {}".format(*others.pop()) if len(others) == 1 else "another worker"
    return HCFlowError(
        f"lost the connection to {which} ({type(error).__name__}); the last checkpoint is kept: "
        "end the workers that still run, and start all of them again to go on from there"
    )


def _nothing_trained(steps: int, bad: list[str]) -> str:
    return (
        f"all {steps} steps were skipped, nothing was trained: {', '.join(bad)} not finite; "
        "look for damaged training images or a start_from model that diverged, or lower optimizer.learning_rate"
    )


def _silent(*args: object, **kwargs: object) -> None:
    """What the workers print that are not the chief."""


def _batches(strategy: tf.distribute.Strategy, data: TrainingData, config: Config, progress: Progress) -> Iterator:
    return iter(strategy.experimental_distribute_dataset(data.dataset(progress.step, config.training.batch_size)))


def _next(batches: Iterator) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """HR and LR images, and the LR images that are to be enlarged, if they are others."""
    try:
        hr, lr, *given = next(batches)
        return hr, lr, given[0] if given else None
    except tf.errors.OpError as error:  # an image that was readable at the scan no longer is
        lines = [line for line in error.message.splitlines() if "Error: " in line]
        if not lines:
            raise
        raise HCFlowError(f"reading the training images failed: {lines[0]}; the last checkpoint is kept") from error


def _initialise(training_step: TrainingStep, data: TrainingData) -> None:
    """First weights: another model's, or ActNorms set from the first global batch, which every worker sees whole."""
    config, model = training_step.config, training_step.model
    started = None
    if config.training.start_from:
        started = _load_start(model, config, config.training.start_from)
    if started is None or started.system != config.model.system:  # none, or one of a part alone
        model.initialise_actnorm(*next(iter(data.dataset(0, config.training.batch_size).take(1)))[:2])
    training_step.optimizer.read_weights()


def _check_files(config: Config, *, resuming: bool) -> None:
    """What is wrong with the files that a config names is told before the images are read and anything is written."""
    losses = config.losses
    for key, used in (("vgg_weights", losses.perceptual), ("lpips_weights", losses.lpips)):
        if used and (file := getattr(losses, key)) and not is_file(pathlib.Path(file)):
            raise HCFlowError(f"losses.{key}: no file at {file}")
    if config.training.start_from and not resuming:
        _find_start(config.training.start_from)


def _find_start(start_from: str) -> pathlib.Path:
    try:
        return find_model(start_from)
    except HCFlowError as error:
        raise HCFlowError(f"training.start_from: {error}") from error


def _load_start(model: TrainedModel, config: Config, start_from: str) -> SystemConfig:
    """Takes up another model's weights and returns what it is."""
    directory = _find_start(start_from)
    other = load_config(directory / CONFIG_FILE).model
    if differences := obstacles(other, config.model):
        raise HCFlowError(f"training.start_from: {directory} cannot become this model or a part of it: {'; '.join(differences)}")
    if other.system != config.model.system and config.losses.diverge_from_scratch:
        raise HCFlowError(
            f"training.start_from: {DIVERGING} diverge from scratch, and the flow has nothing from {directory}, "
            f"a model of system {other.system}; train by nll or pixel alone first"
        )
    weights = read_weights(directory / WEIGHTS_FILE)
    check_fits(weights, other, source=directory)
    initial = {name: np.asarray(variable) for name, variable in model.named_weights().items()}
    assign_weights(model, grow(weights, initial, other, config.model), source=directory)
    return other


def _check_agreement(strategy: tf.distribute.Strategy, step: int, path: pathlib.Path) -> None:
    """All workers must have read the same checkpoint; a worker alone agrees with itself."""
    count = worker_count(strategy)
    if sum_over_workers(strategy, step) != count * step or sum_over_workers(strategy, step**2) != count * step**2:
        raise HCFlowError(f"the workers do not see the same run in {path}: --run-dir must be on a file system that they share")


def _save_checkpoint(run: RunDirectory, training_step: TrainingStep, progress: Progress) -> None:
    if not run.writes:
        return
    state = {f"progress/{name}": np.asarray(value) for name, value in dataclasses.asdict(progress).items() if name != "step"}
    state |= {"seed": np.asarray(training_step.config.training.seed), "actnorm_initialised": np.asarray(True)}
    for name, optimizer in training_step.optimizers.items():
        state |= {f"{name}/{key}": value for key, value in optimizer.state.items()}
    run.checkpoints.save(progress.step, state)


def _restore(run: RunDirectory, training_step: TrainingStep) -> Progress:
    """Takes up the newest readable checkpoint."""
    step, state = run.checkpoints.load()
    try:
        for name, optimizer in training_step.optimizers.items():
            optimizer.load_state(_part(state, name))
        fields = {field.name: field.type for field in dataclasses.fields(Progress)}
        return Progress(step, **{name: value.item() for name, value in _part(state, "progress").items() if name in fields})
    except (ValueError, TypeError) as error:
        raise HCFlowError(f"cannot resume from step {step} in {run.path}: {error}; start with a new --run-dir") from error


def _part(state: State, name: str) -> State:
    return {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}


def _go_back(run: RunDirectory, training_step: TrainingStep, progress: Progress, skipped: int, bad: list[str], say) -> Progress:
    """Returns to the last checkpoint with half the learning rate, or ends the run if it did so too often."""
    what = f"step {progress.step}: {', '.join(bad)} not finite {skipped} times in a row"
    if progress.rollbacks >= training_step.config.training.max_rollbacks:
        raise HCFlowError(
            f"{what}, after going back {progress.rollbacks} times; the last good checkpoint is {run.checkpoints.newest}; "
            "lower optimizer.learning_rate or start from a trained model"
        )
    good = _restore(run, training_step)
    back = dataclasses.replace(
        good, rate_factor=progress.rate_factor / 2, rollbacks=progress.rollbacks + 1, skipped=progress.skipped
    )
    say(f"{what}: back to step {back.step} with {back.rate_factor:g} times the learning rate", flush=True)
    run.log(back.step, {"rate_factor": back.rate_factor, "from_step": progress.step}, kind="rollback")
    _save_checkpoint(run, training_step, back)
    return back


def _validate(run: RunDirectory, config: Config, training_step: TrainingStep, pairs: list[Pair], progress: Progress) -> None:
    with training_step.optimizer.averaged_weights():
        # At the temperature that the pixel loss trains, which is not 0 for some rescaling recipes.
        trained = {"temperature": config.losses.pixel_temperature}
        figures, pictures = validate(training_step.model, pairs, config.losses.quantization_levels, **trained)
        score = figures["psnr_y" if config.model.makes_lr else "psnr_rgb"]
        if score > progress.best:
            progress.best = score
            run.save_best(training_step.model)
    run.log(progress.step, figures, kind="validation")
    run.log_pictures(progress.step, pictures)
    figures_text = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
    print("validation at step", progress.step, figures_text, flush=True)


def _save(run: RunDirectory, config: Config, training_step: TrainingStep, progress: Progress, *, last_is_best: bool) -> None:
    """Writes `last/`, then the checkpoint: a run that was killed in between writes both again."""
    if not run.writes:
        return
    with training_step.optimizer.averaged_weights():
        run.save_last(training_step.model, config, is_best=last_is_best)
    _save_checkpoint(run, training_step, progress)


class _Report:
    """Means of the losses since the last report, the step rate and the time left."""

    def __init__(self, progress: Progress, total: int):
        self._total = total
        self._start = progress.step
        self._start_time = math.nan
        self._rows: list[dict[str, float]] = []

    def add(self, values: dict[str, float]) -> None:
        """Takes the losses of a step."""
        if math.isnan(self._start_time):  # the first step also builds the graph: not counted in the rate
            self._start_time, self._start = time.monotonic(), self._start + 1
        self._rows.append(values)

    def means(self, progress: Progress) -> tuple[str, dict[str, float]]:
        """The line to print and its figures; losses that were not finite are left out of their mean."""
        finite = {name: [row[name] for row in self._rows if math.isfinite(row.get(name, math.nan))] for name in self._rows[-1]}
        means = {name: float(np.mean(values)) for name, values in finite.items() if values}
        elapsed, done = time.monotonic() - self._start_time, progress.step
        rate = (done - self._start) / elapsed if done > self._start and elapsed > 0 else 0.0
        left = f", {_duration((self._total - done) / rate)} left" if rate else ""
        losses = " ".join(f"{name} {value:.5g}" for name, value in means.items())
        skipped = f", {progress.skipped} skipped so far" if progress.skipped else ""
        self._rows = []
        line = f"step {done}/{self._total} {losses}, {rate:.2f} steps/s{left}{skipped}"
        return line, {**means, "steps_per_second": rate, "skipped": progress.skipped}


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {seconds:02}s"
