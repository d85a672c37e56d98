"""HCFlow: its contract, model directories, initialisation from data, mixed precision and recomputation."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import resource
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny_config

import hcflow_tf
from hcflow_tf import bijectors
from hcflow_tf.config import Config
from hcflow_tf.models.hcflow import HCFlow, assemble
from hcflow_tf.networks.coupling import FCN
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights import store

TASKS = ("super_resolution", "rescaling")
KINDS = [(task, scale) for task in TASKS for scale in (2, 4, 8)]
ROUND_TRIP = 1e-5
"""Largest error of decode(encode(x)) in float32, for images in [0, 1]."""


def random_model(task: str, scale: int = 4, **options) -> HCFlow:
    """A small model with weights away from their initial zeros; the same ones each time."""
    model, rng = HCFlow(tiny_config(task, scale), **options), np.random.default_rng(0)
    for weight in model.weights:
        start = np.eye(*weight.shape) if weight.name == "matrix" else 0.0
        weight.assign(start + 0.05 * rng.standard_normal(weight.shape))
    return model


@functools.cache
def model_of(task: str, scale: int = 4) -> HCFlow:
    return random_model(task, scale)


def photographs(count: int = 2, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, size, size, 3), np.float32)


# The contract.


@pytest.mark.parametrize(("task", "scale"), KINDS)
def test_decode_inverts_encode(task, scale):
    model, hr = model_of(task, scale), photographs()
    lr, latents = model.encode(hr)
    assert lr.shape == (2, 16 // scale, 16 // scale, 3)
    assert len(latents) == model.config.levels
    assert sum(int(tf.size(part)) for part in (lr, *latents)) == hr.size
    assert np.abs(model.decode(lr, latents) - hr).max() <= ROUND_TRIP
    assert np.abs(model.decode(lr, [2 * z for z in latents]) - hr).max() > 0.01
    assert model.scale == scale


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_image(task):
    model, lr = model_of(task), photographs(size=4)
    image = model.sample(lr, 0.8, seed=5)
    assert image.shape == (2, 16, 16, 3)
    assert 0 <= image.numpy().min() <= image.numpy().max() <= 1
    np.testing.assert_array_equal(image, model.sample(lr, 0.8, seed=5))
    assert np.abs(image - model.sample(lr, 0.8, seed=7)).max() > 1e-3
    assert np.abs(model.sample(lr, 0.8) - model.sample(lr, 0.8)).max() > 1e-3
    np.testing.assert_array_equal(model.sample(lr, 0.0, seed=1), model.sample(lr, 0.0, seed=2))
    zeros = [tf.zeros_like(z) for z in model.draw_latents(lr.shape)]
    np.testing.assert_allclose(model.sample(lr, 0.0), np.clip(model.decode(lr, zeros), 0, 1), atol=1e-6)


def test_an_image_of_a_batch_is_drawn_as_if_alone():
    model, lr = model_of("rescaling"), photographs(3, size=4)
    batch = model.sample(lr, 0.8, seed=5)
    for index in range(3):
        alone = model.sample(lr[index : index + 1], 0.8, seed=5 + index)
        np.testing.assert_allclose(batch[index], alone[0], atol=1e-5)  # convolutions of another batch size round differently


@pytest.mark.parametrize("seed", [-3, 2**40, 2**63 - 2])
def test_any_integer_is_a_seed(seed):
    first, second = (model_of("rescaling").draw_latents((2, 2, 2, 3), seed=seed) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])


def test_latents_are_scaled_by_the_temperature():
    model = model_of("super_resolution")
    for cold, hot in zip(*(model.draw_latents((2, 4, 4, 3), tau, seed=1) for tau in (0.5, 1.0)), strict=True):
        np.testing.assert_allclose(cold, 0.5 * hot, atol=1e-7)
    drawn = np.concatenate([np.ravel(z) for z in model.draw_latents((8, 32, 32, 3), 1.0, seed=1)])
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01


def test_levels_and_neighbouring_seeds_draw_different_latents():
    one, two = (model_of("super_resolution").draw_latents((1, 4, 4, 3), 1.0, seed=seed) for seed in (1, 2))
    drawn = [np.ravel(z)[:64] for z in (*one, *two)]
    for first in range(4):
        for second in range(first):
            assert abs(np.corrcoef(drawn[first], drawn[second])[0, 1]) < 0.5


@pytest.mark.parametrize("task", TASKS)
def test_log_prob_is_that_of_the_distribution(task):
    model, hr = model_of(task), photographs()
    lr = model.encode(hr)[0] + 0.001
    log_prob = model.log_prob(hr, lr)
    distribution = model.distribution(lr)
    assert distribution.batch_shape == (2,)
    assert distribution.event_shape == (16, 16, 3)
    np.testing.assert_allclose(distribution.log_prob(hr), log_prob, rtol=1e-5)
    images = distribution.sample(5, seed=1)
    assert images.shape == (5, 2, 16, 16, 3)
    np.testing.assert_allclose(distribution.log_prob(images)[3], model.log_prob(images[3], lr), rtol=1e-4)


def test_log_prob_inside_a_function_of_unknown_sizes():
    model, hr = model_of("rescaling"), photographs()
    lr = model.encode(hr)[0] + 0.001
    unknown = [tf.TensorSpec([None, None, None, 3])] * 2
    inside = tf.function(lambda hr, lr: model.distribution(lr).log_prob(hr), unknown, autograph=False)
    np.testing.assert_allclose(inside(hr, lr), model.log_prob(hr, lr), rtol=1e-5)


def test_log_prob_by_hand():
    model, hr = model_of("super_resolution"), photographs()
    parts, log_det = model.encode_and_log_det(hr)
    lr = parts[0] + 0.002
    expected = np.asarray(log_det, np.float64)
    for part, mean, std in [(parts[0], np.asarray(lr), np.exp(-6.0)), *((z, 0.0, 1.0) for z in parts[1:])]:
        standard = (np.asarray(part, np.float64) - mean) / std
        expected = expected - (0.5 * standard**2 + np.log(std) + 0.5 * np.log(2 * np.pi)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(model.log_prob(hr, lr), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, hr, lr, z: m.encode(hr[:, :15]), r"divisible by 4, got shape \(2, 15, 16, 3\)"),
        (lambda m, hr, lr, z: m.encode(hr[0]), r"expected shape \[batch, height, width, 3\], got \(16, 16, 3\)"),
        (lambda m, hr, lr, z: m.encode((255 * hr).astype(np.uint8)), r"expected hr of floats in \[0, 1\], got uint8"),
        (lambda m, hr, lr, z: m.sample((255 * hr).astype(np.uint8)), r"expected lr of floats in \[0, 1\], got uint8"),
        (lambda m, hr, lr, z: m.decode(lr, z[:1]), r"expected \[z_1, z_2\], got 1 latents"),
        (lambda m, hr, lr, z: m.decode(lr, z[::-1]), r"expected z_1 of shape \[2, 8, 8, 6\] for lr \(2, 4, 4, 3\), got"),
        (lambda m, hr, lr, z: m.decode(lr, [z[0], z[1][:1]]), r"expected z_2 of shape \[2, 4, 4, 21\]"),
        (lambda m, hr, lr, z: m.decode(lr[:1], z), r"expected z_1 of shape \[1, 8, 8, 6\] for lr \(1, 4, 4, 3\)"),
        (lambda m, hr, lr, z: m.encode(hr[:0]), r"expected hr with at least one image and one pixel, got shape \(0, 16"),
        (lambda m, hr, lr, z: m((255 * hr).astype(np.uint8)), r"expected hr of floats in \[0, 1\], got uint8"),
        (lambda m, hr, lr, z: m.flow.forward((255 * hr).astype(np.uint8)), r"expected floats, got uint8; divide 8-bit images"),
        (lambda m, hr, lr, z: m.sample(lr, float("nan")), r"expected a finite temperature of at least 0, .* got nan"),
        (lambda m, hr, lr, z: m.sample(lr, float("inf")), r"expected a finite temperature of at least 0, .* got inf"),
        (lambda m, hr, lr, z: m.sample(lr, -0.5), r"expected a finite temperature of at least 0, .* got -0.5"),
        (lambda m, hr, lr, z: m.sample(lr, np.ones((2, 1))), r"expected a finite temperature of at least 0, one or \[batch\]"),
        (lambda m, hr, lr, z: m.sample(lr, np.ones(3)), r"expected one temperature or 2 of them, one for each image, got 3"),
        (lambda m, hr, lr, z: m.log_prob(hr, lr[:1]), r"expected lr of shape \(2, 4, 4, 3\) for this hr, got \(1, 4, 4, 3\)"),
    ],
)
def test_wrong_images_are_named(call, message):
    model, hr = model_of("super_resolution"), photographs()
    with pytest.raises(ValueError, match=message):
        call(model, hr, *model.encode(hr))


# Model directories.


@pytest.mark.parametrize("task", TASKS)
def test_every_weight_survives_save_and_load(task, tmp_path):
    model = model_of(task)
    names = model.named_weights()
    assert len(names) == len(model.weights) == len({id(variable) for variable in names.values()})
    assert sum(int(np.prod(variable.shape)) for variable in names.values()) == model.count_params()
    hcflow_tf.save_model(model, tmp_path / "model")
    loaded = hcflow_tf.load_model(tmp_path / "model")
    assert loaded.config == model.config
    assert list(loaded.named_weights()) == list(names)
    for name, variable in loaded.named_weights().items():
        np.testing.assert_array_equal(variable, names[name], err_msg=name)
    np.testing.assert_array_equal(loaded.encode(photographs())[0], model.encode(photographs())[0])


def test_the_whole_config_is_kept(tmp_path):
    model = model_of("rescaling")
    config = Config(model=model.config, data={"crop_size": 64})
    hcflow_tf.save_model(model, tmp_path, config)
    assert hcflow_tf.load_config(tmp_path / "config.yaml") == config


@pytest.fixture
def saved(tmp_path):
    hcflow_tf.save_model(model_of("rescaling"), tmp_path / "model")
    return tmp_path / "model"


def rewritten(directory, change) -> None:
    weights = store.read_weights(directory / "weights.npz")
    change(weights)
    np.savez(directory / "weights.npz", **weights)


NAME = "level_1/main_step_1/actnorm/bias"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: rewritten(d, lambda w: w.pop(NAME)), f"1 missing: {NAME}"),
        (lambda d: rewritten(d, lambda w: w.update(extra=np.zeros(2))), "1 unexpected: extra"),
        (lambda d: rewritten(d, lambda w: w.update({NAME: np.zeros(5)})), rf"{NAME} is \(5,\), expected \(12,\)"),
        (lambda d: rewritten(d, lambda w: w.update({NAME: np.array([None] * 12)})), "cannot read weights .*npz"),
        (lambda d: (d / "weights.npz").write_bytes((d / "weights.npz").read_bytes()[:-100]), "cannot read weights .*npz"),
        (lambda d: (d / "weights.npz").write_bytes(flipped((d / "weights.npz").read_bytes())), "cannot read weights .*npz"),
        (lambda d: (d / "weights.npz").write_bytes(b""), "cannot read weights .*npz"),
        (lambda d: (d / "weights.npz").write_bytes(npy()), "cannot read weights .*npz"),
        (lambda d: zipped(d / "weights.npz"), "cannot read weights .*npz"),
        (lambda d: (d / "weights.npz").unlink(), "has no weights.npz"),
        (lambda d: (d / "config.yaml").unlink(), "no model at .*expected a directory with config.yaml"),
        (
            lambda d: (d / "config.yaml").write_text((d / "config.yaml").read_text().replace("version: 1", "version: 99")),
            "format_version is 99, this program reads 1",
        ),
    ],
)
def test_damaged_model_directories_are_refused(saved, damage, message):
    damage(saved)
    with pytest.raises(HCFlowError, match=message) as caught:
        hcflow_tf.load_model(saved)
    assert "\n" not in str(caught.value)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def zipped(path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "not an array")


def test_a_failed_save_leaves_the_old_model(saved):
    other = random_model("super_resolution")
    before = {entry.name: entry.read_bytes() for entry in saved.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # as a full disk: the config fits, the weights do not
    try:
        with pytest.raises(HCFlowError, match=r"cannot write .*weights.npz"):
            hcflow_tf.save_model(other, saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {entry.name: entry.read_bytes() for entry in saved.iterdir()} == before


# Initialisation, precision, memory.


@pytest.mark.parametrize("task", TASKS)
def test_initialise_actnorm_standardises_every_output(task):
    model, hr = HCFlow(tiny_config(task)), photographs(4)
    for name, variable in model.named_weights().items():
        if "network/conv" in name or "gaussian" in name:  # networks that do something, so that what comes after depends on them
            variable.assign(0.05 * np.random.default_rng(len(name)).standard_normal(variable.shape))
    model.initialise_actnorm(hr)
    outputs = actnorm_outputs(model, hr)
    steps = model.config.levels * (model.config.main_steps + model.config.conditional_steps)
    networks = model.config.levels * model.config.conditional_steps * 2
    networks += model.config.levels * model.config.main_steps * 2 if task == "super_resolution" else 0
    assert len(outputs) == steps + networks
    for values in outputs:
        np.testing.assert_allclose(values.mean(axis=(0, 1, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(values.std(axis=(0, 1, 2)), 1, atol=1e-3)  # 1e-6 is added to the deviation


def actnorm_outputs(model: HCFlow, hr: np.ndarray) -> list[np.ndarray]:
    """What every ActNorm gives while encoding, of flow steps and of FCNs, without the channels that are left alone."""
    outputs = []
    layers = [step for level in model.levels for step in (*level.main_steps, *level.conditional_steps)]
    weights = {id(layer.network): layer for layer in layers}

    def visit(layer, x, **conditions):
        if not isinstance(layer, bijectors.FlowStep):
            return
        linear, coupling = layer.layers
        network = coupling._network.part
        step = weights[id(network)]
        before = linear._map._before
        z = x if before is None else tf.constant(x.numpy() @ before.T, x.dtype)
        # The low-frequency channels of the image path are left as they are, and so are all of them before the first
        # matrix of super-resolution.
        outputs.append(step.actnorm.call(z).numpy()[..., linear._map._keep :])
        assert linear._map._keep == (
            0 if "conditional" in step.name else 3 if step.rotation is None or before is None else z.shape[-1]
        )
        if isinstance(network, FCN):
            passed = linear.forward(x)[..., : network.passed]
            h = network.actnorm_1.call(network.conv_1.call(tf.concat([passed, *conditions.values()], -1)))
            outputs.append(h.numpy())
            outputs.append(network.actnorm_2.call(network.conv_2.call(tf.nn.relu(h))).numpy())

    assemble(model.config, model.parts(wide=False))._walk(tf.constant(hr), None, visit)
    return outputs


def test_initialise_actnorm_is_deterministic():
    values = []
    for _ in range(2):
        model = random_model("super_resolution")
        model.initialise_actnorm(photographs(4))
        values.append({name: np.asarray(variable) for name, variable in model.named_weights().items()})
    for name, value in values[0].items():
        np.testing.assert_array_equal(value, values[1][name], err_msg=name)


@pytest.mark.parametrize("task", TASKS)
def test_mixed_precision_keeps_the_bijection(task):
    model, mixed, hr = model_of(task), random_model(task, mixed_precision=True), photographs()
    lr, latents = mixed.encode(hr)
    # Each coupling sees in decoding what it saw in encoding to 1e-7; where that rounds differently in bfloat16, more is lost.
    assert np.abs(mixed.decode(lr, latents) - hr).max() <= 0.02
    assert np.sqrt(np.mean(np.square(mixed.decode(lr, latents) - hr))) <= 5e-4
    assert {z.dtype for z in (lr, *latents)} == {tf.float32}
    exact_lr, exact_latents = model.encode(hr)
    assert 0 < np.abs(lr - exact_lr).max() < 0.005  # bfloat16 keeps 8 bits of what the coupling networks give
    difference = np.abs(latents[0] - exact_latents[0]).max()
    assert 0 < difference < 0.05
    # A traced training step computes in bfloat16, too, whatever it reads the weights from.
    in_step = tf.function(lambda: mixed.computed_flow().forward_and_log_det(tf.constant(hr))[0][1], autograph=False)()
    assert 0 < np.abs(in_step - exact_latents[0]).max() < 0.05
    np.testing.assert_allclose(in_step, latents[0], atol=0.02)
    # What several coupling networks share of the condition goes on to them in the type that they compute in.
    for flow in (mixed.flow, mixed.computed_flow()):
        [level] = [level for level in flow.levels if level.condition_parts is not None][:1]
        condition = tf.zeros([1, 4, 4, mixed.config.condition_channels])
        assert level.condition_parts(condition).dtype == tf.bfloat16
    assert exact_latents[0].dtype == tf.float32


def test_mixed_precision_is_beside_float32_alone():
    with pytest.raises(ValueError, match="mixed precision is bfloat16 beside float32, got dtype float64"):
        random_model("rescaling", mixed_precision=True, dtype="float64")


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "function"])
def test_recompute_gives_equal_gradients(compiled):
    hr = tf.constant(photographs())

    def gradients(model: HCFlow) -> list[tf.Tensor]:
        weights = [weight.value for weight in model.trainable_weights]

        def compute():
            with tf.GradientTape() as tape:
                parts, log_det = model.flow.forward_and_log_det(hr)
                loss = tf.add_n([tf.reduce_mean(tf.sin(part)) for part in parts]) + tf.reduce_mean(log_det)
            return tape.gradient(loss, weights)

        return (tf.function(compute, autograph=False) if compiled else compute)()

    expected = gradients(model_of("rescaling", 2))
    actual = gradients(random_model("rescaling", 2, recompute=True))
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max()))


def test_new_model_starts_with_zero_couplings_a_haar_pyramid_and_rotations():
    model = HCFlow(tiny_config("super_resolution"))
    for name, variable in model.named_weights().items():
        value = np.asarray(variable)
        if name.endswith("main_step_1/rotation/matrix"):  # the Haar step: a quarter of orthogonal rows of +-1
            np.testing.assert_allclose(value @ value.T, np.eye(len(value)) / 4, atol=1e-7)
            assert set(np.unique(value)) == {-0.25, 0, 0.25}
        elif "main_step" in name and name.endswith("rotation/matrix"):
            np.testing.assert_array_equal(value, np.eye(len(value)))
        elif name.endswith("rotation/matrix"):
            np.testing.assert_allclose(value @ value.T, np.eye(len(value)), atol=1e-5)
        elif "network/conv_3" in name or "gaussian" in name:
            assert not value.any(), name
    hr = photographs()
    averaged = hr.reshape(len(hr), hr.shape[1] // 4, 4, hr.shape[2] // 4, 4, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(model.encode(hr)[0], averaged, atol=1e-6)


# Keras manners.


@pytest.mark.parametrize("copied", ["clone", "deepcopy", "pickle", "keras"])
def test_copies_compute_the_same(copied, tmp_path):
    model, hr = random_model("super_resolution", 2), photographs()
    model.set_guard([[-2.0] * channels for channels in model.latent_channels])
    if copied == "clone":
        twin = keras.models.clone_model(model)
        assert twin.config == model.config
        twin.set_weights(model.get_weights())
    elif copied == "deepcopy":
        twin = copy.deepcopy(model)
    elif copied == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        model.save(tmp_path / "m.keras")
        twin = keras.models.load_model(tmp_path / "m.keras")
    assert twin is not model
    for ours, theirs in zip(twin.encode(hr)[1], model.encode(hr)[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert twin.log_std_caps == model.log_std_caps
    lr = model.encode(hr)[0]
    np.testing.assert_array_equal(twin.sample(lr, 0.8, 1), model.sample(lr, 0.8, 1))
    twin.weights[0].assign_add(np.ones(twin.weights[0].shape))
    assert np.abs(twin.encode(hr)[1][0] - model.encode(hr)[1][0]).max() > 0  # weights of its own


def test_summary_counts_every_weight(capsys):
    model = model_of("super_resolution")
    model.summary()
    assert f"Total params: {model.count_params():,}" in capsys.readouterr().out
