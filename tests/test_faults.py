"""Nothing is lost: killed runs, damaged checkpoints, signals, losses and gradients that are not finite."""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from tiny import photograph
from training_runs import batch, distribute, make_config, make_step, weights_of

from hcflow_tf.config import save_config
from hcflow_tf.images.images import write_image
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.training.checkpoint import FORMAT_VERSION, Checkpoints
from hcflow_tf.training.flat_optimizer import FlatOptimizer
from hcflow_tf.training.loop import train
from hcflow_tf.training.step import TrainingStep
from hcflow_tf.weights.store import load_model

pytestmark = pytest.mark.usefixtures("eager")

ROOT = pathlib.Path(__file__).parents[1]
FIXTURES = pathlib.Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index in range(3):
        write_image(folder / f"{index}.png", photograph(40, 48, seed=index))
    return f"data.train.hr={folder}"


def rows_of(run_dir: pathlib.Path, kind: str) -> list[dict]:
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def assert_same_state(one: Checkpoints, two: Checkpoints) -> None:
    """Bit by bit."""
    (step_one, state_one), (step_two, state_two) = one.load(), two.load()
    assert step_one == step_two
    assert set(state_one) == set(state_two)
    for name, value in state_one.items():
        np.testing.assert_array_equal(value, state_two[name], err_msg=name)


# Checkpoints.


def some_state(step: int, size: int = 1000) -> dict[str, np.ndarray]:
    return {"model/weights": np.full(size, step, np.float32), "best": np.asarray(step)}


def test_the_two_newest_checkpoints_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    assert not checkpoints
    for step in (0, 5, 10, 15):
        checkpoints.save(step, some_state(step))
    assert sorted(file.name for file in (tmp_path / "c").iterdir()) == ["step_00000010.npz", "step_00000015.npz"]
    step, state = checkpoints.load()
    assert (step, state["best"]) == (15, 15)
    assert set(state) == {"model/weights", "best"}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10):
        checkpoints.save(step, some_state(step))
    newest = tmp_path / "step_00000010.npz"
    content = newest.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    damaged = {"truncated": content[:-100], "flipped": flipped, "empty": b""}
    if damage == "other":
        np.savez(newest, weights=np.zeros(3))
    else:
        newest.write_bytes(damaged[damage])
    step, state = checkpoints.load()
    assert (step, state["best"]) == (5, 5)
    assert str(newest) in capsys.readouterr().err
    (tmp_path / "step_00000005.npz").write_bytes(b"")
    with pytest.raises(HCFlowError, match="no checkpoint can be read; start again with a new --run-dir"):
        checkpoints.load()


def test_a_checkpoint_of_a_later_program_is_refused(tmp_path):
    Checkpoints(tmp_path).save(1, some_state(1) | {"format_version": np.asarray(FORMAT_VERSION + 1)})
    with pytest.raises(HCFlowError, match=f"has format version {FORMAT_VERSION + 1}, this program reads up to {FORMAT_VERSION}"):
        Checkpoints(tmp_path).load()


WRITER = """
import itertools, pathlib, sys
import numpy as np
from hcflow_tf.training.checkpoint import Checkpoints

checkpoints = Checkpoints(pathlib.Path(sys.argv[1]))
for step in itertools.count(int(sys.argv[2])):
    checkpoints.save(step, {"model/weights": np.full(4_000_000, step, np.float32), "best": np.asarray(step)})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_checkpoints_survive_sigkill_while_they_are_written(tmp_path):
    checkpoints, chance, step, torn = Checkpoints(tmp_path), random.Random(0), 0, 0
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(step + 1)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            writer.stdout.readline()  # it has written one
            time.sleep(chance.uniform(0, 0.1))
            writer.kill()
        before, (step, state) = step, checkpoints.load()
        assert step > before
        np.testing.assert_array_equal(state["model/weights"], np.full(4_000_000, step, np.float32))
        torn += any(file.name.startswith(".") for file in tmp_path.iterdir())
        for file in tmp_path.glob(".*"):
            file.unlink()
    assert torn  # at least once the kill hit a file that was being written


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_goes_on_from_a_checkpoint_of_each_format(version, tmp_path, photos, capsys):
    """The fixtures: `train(make_config(photos, "training.steps=2", "training.ema=0.9"), ...)`, the first by release 0.1.0."""
    run, fixture = tmp_path / "run", FIXTURES / f"checkpoint_format_{version}"
    shutil.copytree(fixture, run / "checkpoints")
    config = make_config(photos, "training.ema=0.9")
    save_config(config, run / "config.yaml")
    assert train(config, run, devices="cpu") == 0
    assert "from step 2 to 4" in capsys.readouterr().out
    step, state = Checkpoints(run / "checkpoints").load()
    assert (step, state["model/iteration"]) == (4, 4)
    name = "level_1/main_step_1/actnorm/bias"
    assert {f"model/{kind}/{name}" for kind in ("weights", "momentum", "velocity", "average")} <= set(state)
    assert {"seed", "actnorm_initialised"} <= set(state)


@pytest.mark.parametrize("version", [1, 2])
def test_every_array_of_an_old_checkpoint_goes_to_its_weight(version):
    """By the sums of each weight and moment, written down when the vectors of format 1 were last split."""
    expected = json.loads((FIXTURES / "checkpoint_sums.json").read_text())[str(version)]
    _, step = make_step(make_config("training.ema=0.9"))
    _, state = Checkpoints(FIXTURES / f"checkpoint_format_{version}").load()
    step.optimizer.load_state({key.removeprefix("model/"): value for key, value in state.items() if key.startswith("model/")})
    sums = {name: float(value.sum(dtype=np.float64)) for name, value in step.optimizer.state.items() if value.ndim}
    assert sums == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_checkpoint_of_another_model_is_refused_and_names_what_differs():
    _, step = make_step(make_config())
    _, wider = make_step(make_config("model.main_width=5"))
    _, longer = make_step(make_config("model.main_steps=2"))
    _, averaged = make_step(make_config("training.ema=0.5"))
    width = r"of another model .*21 of another shape: weights/level_1/main_step_1/network/.* is \(.*5\), expected \(.*4\)"
    with pytest.raises(ValueError, match=width):
        step.optimizer.load_state(wider.optimizer.state)
    with pytest.raises(ValueError, match=r"\d+ unexpected: weights/level_1/main_step_2/actnorm/bias, "):
        step.optimizer.load_state(longer.optimizer.state)
    with pytest.raises(ValueError, match=r"\d+ missing: average/level_1/main_step_1/actnorm/bias, "):
        averaged.optimizer.load_state(step.optimizer.state)
    before = step.optimizer.state["weights/level_1/main_step_1/actnorm/bias"]
    old = {"weights": np.zeros(7, np.float32)}
    with pytest.raises(ValueError, match=r"weights has shape \(7,\), this model has [\d,]+ weights"):
        step.optimizer.load_state(old)
    np.testing.assert_array_equal(step.optimizer.state["weights/level_1/main_step_1/actnorm/bias"], before)


def test_names_in_checkpoints_do_not_depend_on_what_was_made_before():
    config = make_config("training.start_from=x", "data.crop_size=160", "losses.adversarial=1", "training.steps=2000")
    first, second = (make_step(config)[1].optimizers["discriminator"].state for _ in range(2))
    assert set(first) == set(second)
    assert "weights/convolution_0_0/kernel" in first


# Runs that are killed.

TRAIN = "import sys; from hcflow_tf.support import cli; sys.exit(cli.execute('train', sys.argv[1:]))"


def start(config: pathlib.Path, run_dir: pathlib.Path) -> subprocess.Popen:
    env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"}
    command = [sys.executable, "-c", TRAIN, "--config", str(config), "--run-dir", str(run_dir), "--devices", "cpu"]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen, text: str) -> None:
    """Reads what the process prints until a line holds `text`."""
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"the process ended with {process.wait()} before it printed {text!r}")


def kill_at_random_moments(config_text: str, tmp_path: pathlib.Path, kills: int) -> None:
    """A run that is killed and started again ends with the weights of one that was left alone, bit by bit."""
    config = tmp_path / "config.yaml"
    config.write_text(config_text)
    chance = random.Random(0)
    whole = start(config, tmp_path / "whole")
    assert whole.communicate(timeout=300)[0]
    assert whole.returncode == 0
    steps = []
    for _ in range(kills):
        run = start(config, tmp_path / "killed")
        wait_for(run, "training ")
        time.sleep(chance.uniform(0, 6))
        run.kill()
        run.communicate()
        steps.append(Checkpoints(tmp_path / "killed/checkpoints").load()[0])
    assert steps == sorted(steps)
    last = start(config, tmp_path / "killed")
    last.communicate(timeout=300)
    assert last.returncode == 0
    assert_same_state(Checkpoints(tmp_path / "whole/checkpoints"), Checkpoints(tmp_path / "killed/checkpoints"))
    taken = [row["step"] for row in rows_of(tmp_path / "killed", "train")]
    assert taken == [row["step"] for row in rows_of(tmp_path / "whole", "train")]
    assert not [file for file in (tmp_path / "killed").rglob(".*") if file.is_file()]


LONG = """
model: {scale: 2, main_steps: 1, conditional_steps: 1, main_width: 4, conditional_width: 4,
        rrdb_blocks: [1, 1], rrdb_features: 4, rrdb_growth: 2}
data: {crop_size: 16, cache: memory, sample_photographs: true, validation_images: 1}
"""


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    training = "training: {steps: 60, batch_size: 2, validate_every: 100, checkpoint_every: 2, log_every: 1, ema: 0.9}"
    kill_at_random_moments(LONG + training, tmp_path, kills=1)


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path):
    training = "training: {steps: 1500, batch_size: 2, validate_every: 500, checkpoint_every: 3, log_every: 1, ema: 0.9}"
    kill_at_random_moments(LONG + training, tmp_path, kills=20)


# Signals.


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_first_and_the_same_command_goes_on(number, code, tmp_path, photos, monkeypatch, capsys):
    call = TrainingStep.__call__

    def interrupted_call(self, hr, lr, step, **options):
        if step == 2:
            os.kill(os.getpid(), number)
        return call(self, hr, lr, step, **options)

    before = signal.getsignal(number)
    monkeypatch.setattr(TrainingStep, "__call__", interrupted_call)
    config = make_config(photos, "training.checkpoint_every=100")
    assert train(config, tmp_path / "run", devices="cpu") == code
    assert Checkpoints(tmp_path / "run/checkpoints").newest.name == "step_00000003.npz"
    assert signal.getsignal(number) is before
    assert "stopped at step 3; the same command goes on from here" in capsys.readouterr().out
    monkeypatch.undo()
    assert train(config, tmp_path / "run", devices="cpu") == 0
    assert [row["step"] for row in rows_of(tmp_path / "run", "train")] == [1, 2, 3, 4]


BUSY = """
import hashlib, sys
from hcflow_tf.training.stop_signals import stop_signals
with stop_signals():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # many minutes, without one bytecode in between, as a long training step
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(number):
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.send_signal(number)
        assert "stopping after this step" in process.stderr.readline()
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=10) == 128 + number


# Losses and gradients that are not finite.


def poisoned(monkeypatch, when) -> None:
    """Makes the HR images NaN in the steps (and with the learning rate factors) that `when` names."""
    call = TrainingStep.__call__

    def poisoned_call(self, hr, lr, step, given=None, rate_factor=1.0):
        return call(self, hr * (np.nan if when(step, rate_factor) else 1), lr, step, given=given, rate_factor=rate_factor)

    monkeypatch.setattr(TrainingStep, "__call__", poisoned_call)


def test_a_step_that_is_not_finite_is_skipped_counted_and_logged(tmp_path, photos, monkeypatch, capsys):
    poisoned(monkeypatch, lambda step, _: step == 1)
    assert train(make_config(photos), tmp_path / "run", devices="cpu") == 0
    assert rows_of(tmp_path / "run", "skipped") == [{"step": 2, "kind": "skipped", "not_finite": "nll"}]
    assert "step 2 skipped: nll not finite" in capsys.readouterr().out
    assert [row["skipped"] for row in rows_of(tmp_path / "run", "train")] == [0, 1, 1, 1]
    step, state = Checkpoints(tmp_path / "run/checkpoints").load()
    assert (step, state["model/iteration"], state["progress/skipped"]) == (4, 3, 1)


def test_a_gradient_that_is_not_finite_is_named(monkeypatch):
    model, step = make_step(make_config())
    gradient = FlatOptimizer.gradient
    monkeypatch.setattr(FlatOptimizer, "gradient", lambda *args, **options: gradient(*args, **options) * np.inf)
    before = weights_of(model)
    hr, lr = batch()
    _, skipped = step(tf.constant(hr), tf.constant(lr), 0)
    assert skipped == ["gradient of nll"]
    step.optimizer.write_weights()
    np.testing.assert_array_equal(weights_of(model), before)


def test_one_replica_s_bad_loss_skips_the_step_on_all():
    model, step = make_step(make_config(), "cpu:2")
    hr, lr = batch()
    hr[0] = np.nan  # the first replica's part; the second's is good
    before = weights_of(model)
    _, skipped = step(distribute(step.strategy, hr), distribute(step.strategy, lr), 0)
    assert skipped == ["nll"]
    values = [part.numpy() for part in step.strategy.experimental_local_results(step.optimizer.vector.value)]
    np.testing.assert_array_equal(values[0], values[1])
    step.optimizer.write_weights()
    np.testing.assert_array_equal(weights_of(model), before)


def test_after_many_bad_steps_the_run_goes_back_and_on_with_half_the_learning_rate(tmp_path, photos, monkeypatch, capsys):
    poisoned(monkeypatch, lambda step, rate_factor: step >= 2 and rate_factor == 1)
    config = make_config(photos, "training.steps=8", "training.max_skipped_steps=3")
    assert train(config, tmp_path / "run", devices="cpu") == 0
    assert "step 5: nll not finite 3 times in a row: back to step 2 with 0.5 times the learning rate" in capsys.readouterr().out
    rollback = {"step": 2, "kind": "rollback", "rate_factor": 0.5, "from_step": 5}
    assert rows_of(tmp_path / "run", "rollback") == [rollback]
    step, state = Checkpoints(tmp_path / "run/checkpoints").load()
    assert (step, state["progress/rate_factor"], state["progress/rollbacks"]) == (8, 0.5, 1)
    assert state["model/iteration"] == 8  # all steps were taken in the end


def test_a_run_that_was_lowered_stays_lowered_when_it_resumes(tmp_path, photos, monkeypatch):
    poisoned(monkeypatch, lambda step, rate_factor: step >= 2 and rate_factor == 1)
    sets = ("training.max_skipped_steps=3", "training.checkpoint_every=1")
    train(make_config(photos, *sets, "training.steps=6"), tmp_path / "run", devices="cpu")
    factors = []
    call = TrainingStep.__call__

    def recorded_call(self, hr, lr, step, given=None, rate_factor=1.0):
        factors.append(rate_factor)
        return call(self, hr, lr, step, given=given, rate_factor=rate_factor)

    monkeypatch.setattr(TrainingStep, "__call__", recorded_call)
    train(make_config(photos, *sets, "training.steps=8"), tmp_path / "run", devices="cpu")
    assert factors == [0.5, 0.5]


def test_a_run_without_one_good_step_fails_and_says_why(tmp_path, photos, monkeypatch):
    poisoned(monkeypatch, lambda step, _: True)
    message = r"all 4 steps were skipped, nothing was trained: nll not finite; look for damaged training images"
    with pytest.raises(HCFlowError, match=message):
        train(make_config(photos), tmp_path / "run", devices="cpu")
    assert not (tmp_path / "run/weights.npz").exists()


@pytest.mark.parametrize("blank", [slice(None), slice(1, 2)], ids=["all_channels", "green"])
def test_images_without_variation_do_not_end_a_run(blank, tmp_path, monkeypatch):
    """ActNorm must not divide by a standard deviation of 0 and then meet images that have one."""
    for index in range(2):
        image = photograph(40, 48, seed=index)
        image[..., blank] = 128
        write_image(tmp_path / f"blank/{index}.png", image)
    assert train(make_config(f"data.train.hr={tmp_path / 'blank'}"), tmp_path / "run", devices="cpu") == 0
    assert not rows_of(tmp_path / "run", "skipped")
    model = load_model(tmp_path / "run")
    likelihood = model.log_prob(*batch())
    assert np.isfinite(likelihood).all()
    assert max(float(np.max(np.abs(weight))) for weight in model.weights) < 10


def test_bad_steps_without_end_stop_the_run_and_keep_the_last_good_checkpoint(tmp_path, photos, monkeypatch):
    poisoned(monkeypatch, lambda step, _: step >= 2)
    config = make_config(photos, "training.steps=20", "training.max_skipped_steps=3", "training.max_rollbacks=2")
    message = r"step 5: nll not finite 3 times in a row, after going back 2 times; .*checkpoints/step_00000002.npz"
    with pytest.raises(HCFlowError, match=message):
        train(config, tmp_path / "run", devices="cpu")
    step, state = Checkpoints(tmp_path / "run/checkpoints").load()
    assert (step, state["progress/rollbacks"]) == (2, 2)
    assert all(np.isfinite(value).all() for name, value in state.items() if name.startswith("model/"))
