"""One device, several replicas and several processes take the same steps; a lost worker does not lose the run."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_runs import BASE, batch, distribute, make_step

from hcflow_tf import losses
from hcflow_tf.config import Config, load_config
from hcflow_tf.support.errors import UsageError
from hcflow_tf.training.checkpoint import Checkpoints
from hcflow_tf.training.strategy import check_batch_size, make_strategy

ROOT = pathlib.Path(__file__).parents[1]
TINY = {
    "hcflow": (
        *("main_steps=2", "conditional_steps=1", "main_width=4", "conditional_width=4"),
        *("rrdb_blocks=[1, 1]", "rrdb_features=4", "rrdb_growth=2"),
    ),
    "irn": ("blocks=[1, 1]", "growth=3"),
    "rrdb": ("blocks=1", "features=4", "growth=2"),
}
STEPS = 20

# Relative difference of all weights and momenta (Euclidean norm), and of each loss. Sums over a batch are rounded in another
# order, and Adam amplifies that where a gradient is nearly 0; measured for weights: 2e-7 in float32, 1e-16 in float64.
# Single precision is compared without the rounding of the LR image to 8 bits: one value that such a difference puts on the
# other side of a boundary changes the pixel loss of the tiny rescale_x4 by up to 1e-4 (seen on one machine of several).
TOLERANCE = {"float32": (1e-5, 1e-5), "float64": (1e-12, 1e-12)}


# Replicas in one process.


def tiny_recipe(name: str, *overrides: str) -> Config:
    """A recipe of configs/ with its own losses, optimiser and scale, and a tiny network; both clippings have an effect."""
    path = ROOT / f"configs/{name}.yaml"
    recipe = load_config(path)
    crop = 160 if recipe.losses.adversarial else 16
    sets = [f"model.{size}" for size in TINY[recipe.model.system]]
    sets += [f"data.crop_size={crop}", f"training.steps={STEPS}", "optimizer.halve_at=[]"]
    sets += ["training.batch_size=4", "training.ema=0.9", "optimizer.clip_value=0.05", "optimizer.clip_norm=0.5"]
    return load_config(path, [*sets, *overrides])


def assert_same_steps(config: Config, dtype: str, steps: int) -> None:
    """Runs the steps on one device and on two, and compares losses, weights and moving averages after 1 and all of them."""
    (losses_one, states_one), (losses_two, states_two) = (trace(config, devices, dtype, steps) for devices in ("cpu", "cpu:2"))
    weight_bound, loss_bound = TOLERANCE[dtype]
    for one, two in zip(losses_one, losses_two, strict=True):
        assert one == pytest.approx(two, rel=loss_bound)
    for one, two in zip(states_one, states_two, strict=True):
        for name, values in one.items():
            assert np.linalg.norm(values - two[name]) <= weight_bound * np.linalg.norm(values), name
    first, last = (state["model/weights"] for state in (states_one[0], states_one[-1]))
    assert steps == 1 or np.linalg.norm(last - first) > 1e-4 * np.linalg.norm(first)  # they have moved at all


def trace(config: Config, devices: str, dtype: str, steps: int) -> tuple[list[dict[str, float]], list[dict[str, np.ndarray]]]:
    """The losses of each step, and the optimisers' states after the first and the last."""
    _, step = make_step(config, devices, dtype=dtype)
    arrays = (array.astype(dtype) for array in batch(4, config.data.crop_size, config.model.scale))
    hr, lr = (distribute(step.strategy, array) for array in arrays)
    losses, states = [], []
    for index in range(steps):
        values, skipped = step(hr, lr, index)
        assert not skipped
        losses.append(values)
        if index in (0, steps - 1):
            states.append(
                {f"{name}/{kind}": v for name, opt in step.optimizers.items() for kind, v in vectors(opt.state).items()}
            )
    return losses, states


def vectors(state: dict[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    """All weights, all momenta and so on, each as one vector."""
    kinds: dict[str, list[np.ndarray]] = {}
    for name, value in state.items():
        if name.startswith(prefix):
            kinds.setdefault(name.removeprefix(prefix).split("/")[0], []).append(np.ravel(value))
    return {kind: np.concatenate(values) for kind, values in kinds.items()}


@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [
        ("sr_x4_plus", "float64"),
        ("rescale_x4", "float64"),
        ("irn_x4", "float64"),
        pytest.param("sr_x4_plus", "float32", marks=pytest.mark.slow),
        pytest.param("rescale_x4", "float32", marks=pytest.mark.slow),
        pytest.param("sr_x4", "float32", marks=pytest.mark.slow),
        pytest.param("sr_x4", "float64", marks=pytest.mark.slow),
    ],
)
def test_one_and_two_replicas_take_the_same_steps(recipe, dtype, monkeypatch):
    if dtype == "float32":
        monkeypatch.setattr(losses, "round_straight_through", tf.identity)
        monkeypatch.setattr(losses.recipes, "round_straight_through", tf.identity)
    assert_same_steps(tiny_recipe(recipe), dtype, STEPS)


def test_one_and_two_replicas_take_the_same_steps_of_muon():
    assert_same_steps(tiny_recipe("rescale_x4", "optimizer.kind=muon"), "float64", STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("recipe", ["face_x8", "face_x8_plus"])
def test_one_and_two_replicas_take_the_same_steps_with_three_levels(recipe, dtype):
    assert_same_steps(tiny_recipe(recipe), dtype, STEPS)


@pytest.fixture
def vgg_weights(tmp_path):
    """Random VGG19 weights: what is compared is how its gradients reach the model."""
    file = tmp_path / "vgg19.weights.h5"
    keras.utils.set_random_seed(1)
    keras.applications.VGG19(include_top=False, weights=None).save_weights(file)
    return f"losses.vgg_weights={file}"


@pytest.fixture
def keras_float64():
    """Keras makes layers of double precision where nothing else is said, as inside VGG19."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(before)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sr_x4_plusplus", "face_x8_plusplus"])
def test_one_and_two_replicas_take_the_same_adversarial_steps(recipe, keras_float64, vgg_weights):
    """In double precision: the next test shows why single precision does not suffice."""
    assert_same_steps(tiny_recipe(recipe, vgg_weights, "optimizer.discriminator_warmup_steps=1"), "float64", STEPS)


@pytest.mark.slow
def test_the_relativistic_mean_is_that_of_the_global_batch(keras_float64):
    assert_same_steps(tiny_recipe("esrgan_x4", "losses.perceptual=0", "data.crop_size=32"), "float64", 3)


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "least", "most"), [("leaky_relu", 1e-3, 1e-2), ("silu", 0, 1e-4)])
def test_single_precision_moves_the_discriminator_over_kinks(activation, least, most, monkeypatch):
    """On one device: rounding changes the sign of a few activations, and so the gradient; measured 4.1e-3 and 2.9e-5."""
    from hcflow_tf.losses import adversarial
    from hcflow_tf.networks import discriminator as module

    if activation != "leaky_relu":
        smooth = functools.partial(keras.layers.Activation, activation)
        monkeypatch.setattr(keras.layers, "LeakyReLU", lambda _slope, dtype: smooth(dtype=dtype))
    hr, lr = batch(4, 160)
    enlarged = lr.repeat(2, axis=1).repeat(2, axis=2)
    strategy = make_strategy("cpu")
    keras.utils.set_random_seed(0)
    with strategy.scope():
        exact, single = module.discriminator("float64"), module.discriminator("float32")
    single.set_weights(exact.get_weights())

    def gradient(network):
        with tf.GradientTape() as tape:
            logits = [network(tf.constant(images, network.dtype), training=True) for images in (hr, enlarged)]
            loss = tf.reduce_mean(adversarial(logits[0], real=True) + adversarial(logits[1], real=False))
        return [part.numpy() for part in tape.gradient(loss, network.trainable_variables)]

    ours, expected = (
        np.concatenate([part.ravel() for part in strategy.run(gradient, (network,))]) for network in (single, exact)
    )
    assert least <= np.linalg.norm(ours - expected) / np.linalg.norm(expected) <= most


def test_discriminator_statistics_are_those_of_the_global_batch():
    """BatchNorm over each replica's part alone would see 2 images where one device sees 4."""
    from hcflow_tf.networks.discriminator import discriminator

    hr = batch(4, 160)[0] * np.array([0.2, 0.5, 1, 2], np.float32)[:, None, None, None]
    logits = []
    for devices in ("cpu", "cpu:2"):
        strategy = make_strategy(devices)
        keras.utils.set_random_seed(0)
        with strategy.scope():
            network = discriminator()
        run = tf.function(lambda x, network=network: network(x, training=True))
        parts = strategy.run(run, (distribute(strategy, hr),))
        logits.append(np.concatenate([part.numpy() for part in strategy.experimental_local_results(parts)]))
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-3, atol=1e-5)


def test_a_batch_that_the_replicas_cannot_share_is_refused():
    with pytest.raises(UsageError, match=r"training.batch_size: 5 is not divisible by the 2 replicas; use 4 or 6"):
        check_batch_size(5, make_strategy("cpu:2"))
    with pytest.raises(UsageError, match=r"training.batch_size: 1 is not divisible by the 2 replicas; use 2$"):
        check_batch_size(1, make_strategy("cpu:2"))
    check_batch_size(5, make_strategy("cpu"))


# Several processes.


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def start(config: pathlib.Path, run_dir: pathlib.Path, *sets: str, devices: str = "cpu", **environment: str) -> subprocess.Popen:
    """A training process."""
    command = [sys.executable, "-m", "hcflow_tf.train", "--config", str(config), "--run-dir", str(run_dir), "--devices", devices]
    for change in sets:
        command += ["--set", change]
    env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"} | environment
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_workers(config: pathlib.Path, run_dir: pathlib.Path, *sets: str) -> list[subprocess.Popen]:
    """Two processes that train together over the loopback device."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    tasks = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(2)]
    return [start(config, run_dir, *sets, TF_CONFIG=task) for task in tasks]


def finish(*processes: subprocess.Popen, timeout: float = 240) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    ended = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            for other in processes:
                other.kill()
            raise
        ended.append((process.returncode, out, err))
    return ended


@pytest.fixture(scope="module")
def tiny_config_file(tmp_path_factory):
    """The tiny run on the sample photographs."""
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(BASE.replace("cache: memory", "cache: memory, sample_photographs: true, validation_images: 1"))
    return file


def test_two_processes_train_as_two_replicas_and_as_one_device(tiny_config_file, tmp_path):
    runs = {
        "workers": start_workers(tiny_config_file, tmp_path / "workers"),
        "replicas": [start(tiny_config_file, tmp_path / "replicas", devices="cpu:2")],
        "one": [start(tiny_config_file, tmp_path / "one")],
    }
    ended = {name: finish(*processes) for name, processes in runs.items()}
    for name, results in ended.items():
        assert [code for code, _, _ in results] == [0] * len(results), (name, results)
    (_, chief, _), (_, other, _) = ended["workers"]
    assert "2 replica(s) of 2 workers" in chief
    assert other == ""  # one process reports for all
    states = {name: vectors(Checkpoints(tmp_path / name / "checkpoints").load()[1], "model/") for name in runs}
    for name in ("replicas", "one"):
        for key in ("weights", "momentum", "velocity"):
            difference = np.linalg.norm(states["workers"][key] - states[name][key])
            assert difference <= 1e-5 * np.linalg.norm(states[name][key]), (name, key)
    logs = {name: train_rows(tmp_path / name) for name in runs}
    for name in ("replicas", "one"):
        for ours, theirs in zip(logs["workers"], logs[name], strict=True):
            assert ours["nll"] == pytest.approx(theirs["nll"], rel=1e-5)


def train_rows(run_dir: pathlib.Path) -> list[dict]:
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_stop_when_a_worker_is_killed_and_the_restarted_pair_resumes(victim, tiny_config_file, tmp_path):
    long = ("training.steps=100000", "training.checkpoint_every=5", "training.log_every=5", "training.validate_every=100000")
    workers = start_workers(tiny_config_file, tmp_path / "run", *long)
    wait_for_checkpoint(tmp_path / "run", 5, workers)
    workers[victim].kill()
    killed = time.monotonic()
    code, _, stderr = finish(workers[1 - victim], timeout=120)[0]
    assert time.monotonic() - killed < 90  # measured: 2 s to 40 s, which is TensorFlow's wait for the lost one at exit
    assert code == 1
    # What TensorFlow says of the loss does not always say whose it was.
    assert re.search(rf"lost the connection to (worker {victim}|another worker) \(", stderr)
    assert "start all of them again" in stderr
    assert "Traceback" not in stderr
    finish(workers[victim])

    kept, _ = Checkpoints(tmp_path / "run/checkpoints").load()
    again = start_workers(tiny_config_file, tmp_path / "run", *long)
    wait_for_checkpoint(tmp_path / "run", kept + 5, again)
    again[1].send_signal(signal.SIGTERM)  # both stop after the same step and exit alike
    (chief_code, chief, _), (other_code, _, _) = finish(*again)
    assert (chief_code, other_code) == (143, 143)
    assert f"from step {kept} to" in chief
    assert "stopped at step" in chief


def wait_for_checkpoint(run_dir: pathlib.Path, step: int, processes: list[subprocess.Popen]) -> None:
    """Waits until the run has saved a checkpoint of `step` or later."""
    end = time.monotonic() + 180
    checkpoints = Checkpoints(run_dir / "checkpoints")
    while not (checkpoints.newest and int(checkpoints.newest.stem.removeprefix("step_")) >= step):
        if time.monotonic() > end or any(process.poll() is not None for process in processes):
            for process in processes:
                process.kill()
            pytest.fail(f"no checkpoint of step {step}: {finish(*processes)}")
        time.sleep(0.1)


def tf_config(cluster: dict, **task) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster} | ({"task": task} if task else {}))}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TF_CONFIG": "{"}, r"TF_CONFIG does not describe a cluster"),
        (tf_config({"worker": ["a:1", "b:1"]}), r"TF_CONFIG does not describe a cluster"),
        (tf_config({"worker": ["a:1", "b:1"]}, type="worker", index=2), r"TF_CONFIG does not describe a cluster"),
        (tf_config({"ps": ["a:1"], "worker": ["b:1"]}, type="ps", index=0), r"chief and worker, got ps"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, r"the Slurm environment does not describe a cluster: .*NODELIST"),
    ],
)
def test_a_wrong_description_of_the_cluster_is_named(variables, message, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        make_strategy("cpu")


def test_one_worker_alone_is_no_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}')
    assert make_strategy("cpu").num_replicas_in_sync == 1


def test_slurm_names_the_workers(monkeypatch):
    from hcflow_tf.training.strategy import _cluster

    slurm = {"NTASKS": "4", "STEP_NUM_TASKS": "4", "PROCID": "2", "STEP_NODELIST": "n[07-08]", "STEP_TASKS_PER_NODE": "2(x2)"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    resolver = _cluster(gpus=3)
    assert resolver.cluster_spec().as_dict() == {"worker": ["n07:8888", "n07:8889", "n08:8888", "n08:8889"]}
    assert (resolver.task_type, resolver.task_id, resolver.num_accelerators()) == ("worker", 2, {"GPU": 3})
    monkeypatch.setenv("HCFLOW_PORT", "9000")
    assert _cluster(gpus=0).cluster_spec().task_address("worker", 3) == "n08:9001"
