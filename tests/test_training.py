"""Training: the steps of the recipes, replicas, resuming, interruption, failures, the run directory."""

from __future__ import annotations

import errno
import json
import shlex

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import photograph, tiny_model
from training_runs import RESCALING, batch, make_config, make_step, run_steps

from hcflow_tf import losses
from hcflow_tf.config import Config, ModelConfig, RRDBConfig, dump_config, parse_config
from hcflow_tf.images.images import write_image
from hcflow_tf.models.hcflow import HCFlow
from hcflow_tf.models.rrdb import RRDB
from hcflow_tf.networks.layers import convolve
from hcflow_tf.networks.rrdb import run_trunk
from hcflow_tf.support import state_dict
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.training import loop
from hcflow_tf.training.checkpoint import Checkpoints
from hcflow_tf.training.growth import grow, obstacles
from hcflow_tf.training.loop import train
from hcflow_tf.training.step import decay, update_terms
from hcflow_tf.training.strategy import make_strategy
from hcflow_tf.weights.store import assign_weights, load_model, save_model

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index in range(3):
        write_image(folder / f"{index}.png", photograph(40, 48, seed=index))
    return f"data.train.hr={folder}", f"data.validation.hr={folder}"


@pytest.mark.parametrize("overrides", [(), RESCALING], ids=["super_resolution", "rescaling"])
def test_loss_falls(overrides):
    values, _, _ = run_steps(make_config(*overrides, "optimizer.learning_rate=3e-3"), steps=30)
    first, last = values[0][0], values[-1][0]
    assert last["pixel"] < 0.7 * first["pixel"] if overrides else last["nll"] < first["nll"] - 1


@pytest.mark.compiled
@pytest.mark.parametrize("option", [pytest.param("training.xla=true", marks=pytest.mark.slow), "training.recompute=true"])
def test_options_that_change_only_cost(option):
    plain, weights_plain, _ = run_steps(make_config(), steps=2)
    other, weights_other, _ = run_steps(make_config(option), steps=2)
    assert plain[0][0]["nll"] == pytest.approx(other[0][0]["nll"], rel=1e-5)
    assert np.abs(weights_plain - weights_other).mean() < 1e-5


def test_update_terms_follow_the_recipes():
    start = "training.start_from=x"
    plus = make_config(start, "losses.nll=2e-3", "losses.pixel=1").losses
    plusplus = make_config(
        start, "data.crop_size=160", "losses.pixel=1", "losses.perceptual=1", "losses.adversarial=1", "training.steps=2000"
    ).losses
    assert update_terms(make_config().losses) == [("nll",)]
    assert update_terms(plus) == [("nll",), ("pixel",)]
    assert update_terms(plusplus) == [("nll",), ("pixel",), ("perceptual", "adversarial")]
    assert update_terms(make_config(*RESCALING).losses) == [("pixel", "lr", "latent")]


def test_learning_rate_warms_up_and_halves():
    optimizer = make_config("optimizer.halve_at=[10, 20]", "optimizer.warmup_steps=4", "training.steps=30").optimizer
    factors = [decay(optimizer, step, 30) for step in (0, 1, 3, 9, 10, 19, 20, 29)]
    assert factors == [0.25, 0.5, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_learning_rate_follows_a_cosine():
    optimizer = make_config("optimizer.cosine=true", "optimizer.warmup_steps=2", "training.steps=30").optimizer
    assert [decay(optimizer, step, 30) for step in (0, 10, 15, 20, 30)] == pytest.approx([0.5, 0.75, 0.5, 0.25, 0])
    with pytest.raises(UsageError, match=r"optimizer.cosine: the learning rate is halved at given steps already"):
        make_config("optimizer.cosine=true", "optimizer.halve_at=[2]")


def test_lr_error_with_weighted_colour_differences():
    rng = np.random.default_rng(0)
    a, b = (tf.constant(rng.random((2, 4, 5, 3))) for _ in range(2))
    np.testing.assert_allclose(losses.lr_l2(a, b), losses.l2(a, b), rtol=1e-12)
    gray = b + 0.1  # an error without colour weighs the same with any weight
    np.testing.assert_allclose(losses.lr_l2(gray, b, 4.0), [0.01, 0.01], rtol=1e-12)
    coloured = b + tf.constant([0.114, 0.0, -0.299], tf.float64)  # one without luma weighs the square
    np.testing.assert_allclose(losses.lr_l2(coloured, b, 4.0), 16 * losses.l2(coloured, b), rtol=1e-12)


def test_rounding_is_straight_through():
    image = tf.constant([[[[-0.2, 0.5001, 1.3]]]])
    with tf.GradientTape() as tape:
        tape.watch(image)
        rounded = losses.round_straight_through(image)
    np.testing.assert_allclose(rounded, [[[[0, 128 / 255, 1]]]], atol=1e-7)
    np.testing.assert_array_equal(tape.gradient(rounded, image), np.ones([1, 1, 1, 3]))


def test_weights_are_averaged():
    _, current, step = run_steps(make_config("training.ema=0.5"), steps=3)
    with step.optimizer.averaged_weights():
        averaged = np.concatenate([variable.numpy().ravel() for variable in step.model.weights])
    restored = np.concatenate([variable.numpy().ravel() for variable in step.model.weights])
    np.testing.assert_array_equal(current, restored)
    assert 0 < np.abs(averaged - current).mean() < 0.02


def test_perceptual_and_adversarial_losses(tmp_path):
    file = tmp_path / "vgg19.weights.h5"
    keras.utils.set_random_seed(1)
    keras.applications.VGG19(include_top=False, weights=None).save_weights(file)
    config = make_config(
        *("training.start_from=x", "data.crop_size=160", "training.batch_size=1", "losses.nll=0", "losses.perceptual=1"),
        *("losses.adversarial=1", f"losses.vgg_weights={file}", "optimizer.discriminator_warmup_steps=1"),
    )
    model, step = make_step(config)
    hr, lr = (tf.constant(array) for array in batch(1, 160))
    before = [variable.numpy() for variable in model.weights]
    warmup, skipped = step(hr, lr, 0)
    assert not skipped
    assert set(warmup) == {"discriminator"}
    step.optimizer.write_weights()
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, model.weights, strict=True))
    values, skipped = step(hr, lr, 1)
    assert not skipped
    assert set(values) == {"perceptual", "adversarial", "discriminator"}
    assert values["perceptual"] > 0
    step.optimizer.write_weights()
    assert any(not np.array_equal(a, b.numpy()) for a, b in zip(before, model.weights, strict=True))


def test_vgg_weights_that_cannot_be_had(tmp_path, monkeypatch):
    from hcflow_tf.networks.vgg import VGGFeatures

    with pytest.raises(HCFlowError, match=r"losses.vgg_weights: no file at .*missing\.h5"):
        VGGFeatures(str(tmp_path / "missing.h5"))
    (tmp_path / "broken.h5").write_bytes(b"not hdf5")
    with pytest.raises(HCFlowError, match=r"cannot load VGG19 weights from .*broken\.h5"):
        VGGFeatures(str(tmp_path / "broken.h5"))
    (tmp_path / "other.pth").touch()
    monkeypatch.setattr(state_dict, "read_state_dict", lambda path: {"conv.weight": np.zeros((4, 3, 3, 3))})
    with pytest.raises(HCFlowError, match=r"other\.pth does not hold torchvision's VGG19: 'features\.0\.weight'"):
        VGGFeatures(str(tmp_path / "other.pth"))
    monkeypatch.setattr(keras.src.applications.vgg19, "WEIGHTS_PATH_NO_TOP", "http://127.0.0.1:9/vgg19.h5")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.src.utils.file_utils.config, "keras_home", lambda: str(tmp_path))
    with pytest.raises(HCFlowError, match=r"give a file in losses.vgg_weights instead"):
        VGGFeatures()


def read_log(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


@pytest.mark.compiled
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, photos, capsys):
    config = make_config(*photos, "training.ema=0.9")
    assert train(config, tmp_path / "whole", devices="cpu") == 0
    assert train(make_config(*photos, "training.ema=0.9", "training.steps=2"), tmp_path / "parts", devices="cpu") == 0
    assert train(config, tmp_path / "parts", devices="cpu") == 0
    assert "from step 2 to 4" in capsys.readouterr().out
    whole, parts = (load_model(tmp_path / name / "last") for name in ("whole", "parts"))
    for ours, theirs in zip(whole.weights, parts.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    log = read_log(tmp_path / "whole")
    assert [row["step"] for row in log if row["kind"] == "train"] == [1, 2, 3, 4]
    validation = [row for row in log if row["kind"] == "validation"]
    assert [row["step"] for row in validation] == [2, 4]
    assert {"psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y", "lr_psnr", "bits_per_dim"} <= set(validation[0])
    assert load_model(tmp_path / "whole").count_params() == whole.count_params()
    assert list((tmp_path / "whole/tensorboard").iterdir())
    assert "tensorflow" in json.loads((tmp_path / "whole/versions.json").read_text())


def test_without_validation_the_last_model_is_the_best(tmp_path, photos):
    assert train(make_config(photos[0], "training.checkpoint_every=1", "training.steps=2"), tmp_path / "run", devices="cpu") == 0
    best, last = load_model(tmp_path / "run"), load_model(tmp_path / "run/last")
    for ours, theirs in zip(best.weights, last.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_full_disk_keeps_the_last_checkpoint(tmp_path, photos, monkeypatch):
    savez, written = np.savez, []

    def fail_later(file, **arrays):
        written.append(arrays.get("step"))
        if written[-1] == 4:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", fail_later)
    with pytest.raises(HCFlowError, match=r"cannot write .*checkpoints/step_00000004.npz: No space left on device"):
        train(make_config(*photos), tmp_path / "run", devices="cpu")
    assert [file.name for file in sorted((tmp_path / "run/checkpoints").iterdir())] == ["step_00000000.npz", "step_00000002.npz"]
    assert load_model(tmp_path / "run/last").scale == 2


def test_run_directory_is_not_reused_for_another_run(tmp_path, photos):
    config = make_config(*photos, "training.steps=1")
    train(config, tmp_path / "run", devices="cpu")
    with pytest.raises(UsageError, match="already holds a run"):
        train(config, tmp_path / "run", resume="never", devices="cpu")
    with pytest.raises(UsageError, match=r"another config \(model.main_width, optimizer.learning_rate\)"):
        train(
            make_config(*photos, "training.steps=1", "model.main_width=8", "optimizer.learning_rate=1"),
            tmp_path / "run",
            devices="cpu",
        )


def test_a_run_that_is_past_the_last_step_is_left_alone(tmp_path, photos):
    train(make_config(*photos, "training.steps=2"), tmp_path / "run", devices="cpu")
    before = (tmp_path / "run/config.yaml").read_bytes()
    with pytest.raises(UsageError, match=r"run is at step 2, past training.steps 1: give more steps"):
        train(make_config(*photos, "training.steps=1"), tmp_path / "run", devices="cpu")
    assert (tmp_path / "run/config.yaml").read_bytes() == before


@pytest.mark.parametrize("start_from", ["", "run"])
def test_a_model_that_is_no_run_is_not_replaced(tmp_path, photos, start_from):
    save_model(HCFlow(make_config().model), tmp_path / "run")
    before = {file: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    settings = [f"training.start_from={tmp_path / start_from}"] if start_from else []
    with pytest.raises(UsageError, match="holds a model and no checkpoints, a training would replace it"):
        train(make_config(*photos, *settings), tmp_path / "run", devices="cpu")
    assert {file: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_a_config_of_no_run_is_not_replaced(tmp_path, photos):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("# mine\n")
    with pytest.raises(UsageError, match=r"run/config.yaml is of no run, and a training would replace it"):
        train(make_config(*photos), tmp_path / "run", devices="cpu")
    assert (tmp_path / "run/config.yaml").read_text() == "# mine\n"


def test_what_a_config_names_is_looked_for_before_anything_is_written(tmp_path, photos):
    for settings, message in (
        (["training.start_from=nosuch"], "training.start_from: no model at nosuch"),
        (
            ["training.start_from=sr-x4-compact", "losses.perceptual=1", "losses.vgg_weights=no.h5"],
            "losses.vgg_weights: no file at no.h5",
        ),
    ):
        with pytest.raises(HCFlowError, match=message):
            train(make_config(*photos, *settings), tmp_path / "run", devices="cpu")
    assert not (tmp_path / "run").exists()


IN_VAIN = [
    (["data.degradation={share: 0.5, blur: 1}"], "data.degradation: the likelihood keeps the clean LR image, and no other loss"),
    (
        [
            "training.start_from=sr-x4-compact",
            "losses.adversarial=1",
            "data.crop_size=32",
            "training.batch_size=1",
            "optimizer.discriminator_warmup_steps=1",
        ],
        "data.crop_size: the discriminator normalises over the batch, and of one crop of 32 a single value is left",
    ),
    (
        ["losses.vgg_weights=vgg.h5", "losses.perceptual_features=efficientnet_lite0"],
        "losses.vgg_weights: perceptual_features efficientnet_lite0 does not read it",
    ),
]


@pytest.mark.parametrize(("settings", "message"), IN_VAIN)
def test_what_would_do_nothing_is_not_begun_but_read(tmp_path, photos, settings, message):
    """Earlier releases trained it, and their models and runs are to stay readable."""
    config = make_config(*photos, *settings)
    with pytest.raises(UsageError, match=message):
        train(config, tmp_path / "run", devices="cpu")
    assert not (tmp_path / "run").exists()
    save_model(HCFlow(config.model), tmp_path / "run", config)
    load_model(tmp_path / "run")


def test_a_run_that_an_earlier_release_began_in_vain_goes_on(tmp_path, photos, monkeypatch):
    settings = [*photos, *IN_VAIN[0][0]]
    with monkeypatch.context() as earlier:
        earlier.setattr(Config, "in_vain", lambda self: ())
        train(make_config(*settings, "training.steps=1"), tmp_path / "run", devices="cpu")
    assert train(make_config(*settings, "training.steps=2"), tmp_path / "run", devices="cpu") == 0
    assert Checkpoints(tmp_path / "run/checkpoints").newest_step == 2


def test_how_to_go_on_can_be_pasted(tmp_path, photos):
    train(make_config(*photos, "training.steps=1"), tmp_path / "run", devices="cpu")
    with pytest.raises(UsageError, match="or go on as it began with") as caught:
        train(make_config(*photos, "training.steps=1", "optimizer.halve_at=[]", "data.degradation={share: 0.5, blur: 1}",
            "losses.nll=0", "losses.pixel=1"), tmp_path / "run", devices="cpu")  # fmt: skip
    options = shlex.split(str(caught.value).split("as it began with ")[1])
    assert options[::2] == ["--set"] * 3
    train(make_config(*photos, "training.steps=1", *options[1::2]), tmp_path / "run", devices="cpu")


def test_fine_tuning_starts_from_another_model(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(loop, "_validate", lambda *args: None)
    keras.utils.set_random_seed(5)
    start = HCFlow(make_config().model)
    save_model(start, tmp_path / "start")
    tune = make_config(*photos, f"training.start_from={tmp_path / 'start'}", "training.steps=1", "optimizer.learning_rate=1e-9")
    train(tune, tmp_path / "run", devices="cpu")
    for ours, theirs in zip(load_model(tmp_path / "run").weights, start.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)
    other = make_config(*photos, f"training.start_from={tmp_path / 'start'}", "model.rrdb_features=8", "model.main_width=3")
    with pytest.raises(
        HCFlowError, match=r"or a part of it: model.rrdb_features is 8 here, \d+ there; model.main_width is 3 here, \d+ there"
    ):
        train(other, tmp_path / "other", devices="cpu")


@pytest.mark.parametrize("task", ["super_resolution", "rescaling"])
def test_larger_model_starts_as_the_smaller_one(task):
    small = tiny_model(task)
    larger = {"main_steps": 4, "conditional_steps": 3, "main_width": 9, "conditional_width": 8}
    larger |= {"rrdb_blocks": (2, 3), "lower_rrdb_blocks": (3, 1)}
    config = small.config.model_copy(update={**larger, "rrdb_growth": 5})
    assert obstacles(small.config, config) == []
    found = obstacles(config, small.config)
    assert {difference.split()[0].removeprefix("model.") for difference in found} == {*larger, "rrdb_growth"}
    large = HCFlow(config)
    weights, initial = ({name: np.asarray(w) for name, w in model.named_weights().items()} for model in (small, large))
    assign_weights(large, grow(weights, initial, small.config, config), source="test")
    hr = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    for ours, expected in zip(large(hr), small(hr), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    # Nothing of what was added may be cut off: every weight gets a gradient, if not at once, then after a step.
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_mean(tf.square(part - 0.3)) for part in large(hr)])
        gradients = tape.gradient(loss, large.trainable_variables)
        for variable, gradient in zip(large.trainable_variables, gradients, strict=True):
            variable.assign_sub(0.01 * gradient)
    assert not [variable.path for variable, gradient in zip(large.weights, gradients, strict=True) if not np.any(gradient)]


@pytest.mark.parametrize(("scale", "own"), [(2, "rrdb_blocks"), (4, "lower_rrdb_blocks")])
def test_the_last_extractor_starts_from_an_rrdb_model(scale, own):
    rrdb = RRDB(RRDBConfig(scale=scale, blocks=3, features=4, growth=2))
    small = {"scale": scale, "main_steps": 1, "conditional_steps": 1, "rrdb_features": 4, "rrdb_growth": 2}
    config = ModelConfig(**{**small, "rrdb_blocks": (1, 0), own: (2, 1)})
    assert obstacles(rrdb.config, config) == []
    model = HCFlow(config)
    weights, initial = ({name: np.asarray(w) for name, w in m.named_weights().items()} for m in (rrdb, model))
    assign_weights(model, grow(weights, initial, rrdb.config, config), source="test")
    changed = {name for name, weight in model.named_weights().items() if not np.array_equal(weight, initial[name])}
    assert {name.split("/")[0] for name in changed} == {f"level_{config.levels}"}
    lr = tf.constant(np.random.default_rng(0).random((1, 9, 7, 3), np.float32))
    conv_first, trunk, conv_trunk = rrdb.network.effective_features()
    first, _, after_2, after_3 = run_trunk(trunk, convolve(conv_first, lr))
    expected = tf.concat([after_2, first + convolve(conv_trunk, after_3)], axis=-1)
    np.testing.assert_allclose(model.levels[-1].extractor(lr), expected, rtol=0, atol=1e-6)

    larger = config.model_copy(update={own: (2, 2), "rrdb_growth": 3})
    found = obstacles(rrdb.config, larger)
    assert found == [f"model.{own} is 4 together here, 3 together there", "model.rrdb_growth is 3 here, 2 there"]
    assert obstacles(rrdb.config, ModelConfig(task="rescaling", **{**small, "rrdb_blocks": (1, 0), own: (2, 1)}))
    unconditioned = config.model_copy(update={"conditions": (*["own_and_below"] * (config.levels - 1), "nothing")})
    assert [line.split()[0] for line in obstacles(rrdb.config, unconditioned)] == ["model.conditions"]


@pytest.mark.parametrize("recompute", [False, True])
def test_flow_steps_are_frozen_at_first(recompute):
    frozen = ("training.frozen_steps=2", f"training.recompute={str(recompute).lower()}")
    config = make_config("model.scale=4", "losses.nll=0", "losses.pixel=1", *frozen)
    model, step = make_step(config)
    hr, lr = (tf.constant(array) for array in batch(4, 16, 4))

    def changed(index: int) -> set[str]:
        before = {name: variable.numpy() for name, variable in model.named_weights().items()}
        _, skipped = step(hr, lr, index)
        assert not skipped
        step.optimizer.write_weights()
        return {name for name, variable in model.named_weights().items() if not np.array_equal(variable, before[name])}

    in_flow = {name for name in model.named_weights() if "_step_" in name}
    for index in range(2):
        moved = changed(index)
        assert not moved & in_flow
        assert {"level_1/feature_extractor/conv_first/kernel", "level_2/gaussian/kernel"} <= moved
    assert changed(2) & in_flow


def test_levels_may_have_rrdbs_of_their_own():
    alike = parse_config("model: {scale: 8, rrdb_blocks: [2, 1]}").model
    assert alike.lower_rrdb_blocks == (2, 1)
    assert parse_config(dump_config(Config(model=alike))).model == alike
    own = parse_config("model: {scale: 8, rrdb_blocks: [2, 1], lower_rrdb_blocks: [1, 3]}").model
    names = HCFlow(own.model_copy(update={"rrdb_features": 4, "rrdb_growth": 2})).named_weights()
    for level, blocks in ((1, (2, 1)), (2, (1, 3)), (3, (1, 3))):
        for trunk, count in zip("ab", blocks, strict=True):
            found = {name.split("/")[2] for name in names if name.startswith(f"level_{level}/feature_extractor/trunk_{trunk}")}
            assert found == {f"trunk_{trunk}_{number}" for number in range(1, count + 1)}


def test_mixed_precision_keeps_the_flow_exact():
    keras.utils.set_random_seed(0)
    model = HCFlow(make_config().model, mixed_precision=True)
    hr, _ = batch()
    model.initialise_actnorm(hr)
    lr, latents = model.encode(hr)
    np.testing.assert_allclose(model.decode(lr, latents), hr, atol=2e-5)
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}


@pytest.mark.parametrize("overrides", [(), RESCALING], ids=["super_resolution", "rescaling"])
@pytest.mark.parametrize("scale", [2, 4])
def test_training_starts_from_the_averaged_image(overrides, scale):
    keras.utils.set_random_seed(0)
    model = HCFlow(make_config(*overrides, f"model.scale={scale}", "model.main_steps=3").model)
    hr, _ = batch()
    model.initialise_actnorm(hr)
    averaged = hr.reshape(4, 16 // scale, scale, 16 // scale, scale, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(model.encode(hr)[0], averaged, atol=1e-5)


@pytest.mark.parametrize(
    ("devices", "message"),
    [("tpu", "expected auto"), ("cpu:0", "expected auto"), ("gpu", "0 GPUs"), ("cpu:9", "already started")],
)
def test_wrong_devices(devices, message):
    if devices == "gpu" and tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match=message):
        make_strategy(devices)


def test_image_lost_during_the_run_is_named(tmp_path, monkeypatch):
    for index in range(2):
        write_image(tmp_path / f"photos/{index}.png", photograph(40, 48, seed=index))
    initialise = HCFlow.initialise_actnorm

    def lose(self, hr, lr):
        initialise(self, hr, lr)
        for file in (tmp_path / "photos").iterdir():
            file.unlink()

    monkeypatch.setattr(HCFlow, "initialise_actnorm", lose)
    with pytest.raises(HCFlowError, match=r"reading the training images failed: .*photos/[01]\.png"):
        train(make_config(f"data.train.hr={tmp_path / 'photos'}", "data.cache=none"), tmp_path / "run", devices="cpu")
