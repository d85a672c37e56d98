"""The training step's losses and gradients are those of the authors' program (tests/fixtures/README.md)."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from training_runs import batch, make_config, make_step, weights_of

from hcflow_tf import losses
from hcflow_tf.config import load_config
from hcflow_tf.models.hcflow import HCFlow
from hcflow_tf.support import state_dict
from hcflow_tf.training.flat_optimizer import FlatOptimizer
from hcflow_tf.training.step import TrainingStep
from hcflow_tf.training.strategy import make_strategy
from hcflow_tf.weights import released
from hcflow_tf.weights.store import assign_weights

PARITY = pathlib.Path(__file__).parent / "fixtures/parity"
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
TOLERANCE = 1e-4
UNCLIPPED = ("optimizer.clip_value=null", "optimizer.clip_norm=null")


pytestmark = pytest.mark.usefixtures("eager")


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


def read_json(name: str) -> dict:
    return json.loads((PARITY / f"{name}.json").read_text())


def released_model(name: str) -> tuple[HCFlow, dict[str, np.ndarray]]:
    """The fixture's model, and for each of our weights the index of the released entry that each value comes from."""
    state = dict(np.load(PARITY / f"{name}_weights.npz"))
    config = released.infer_config({key: value.shape for key, value in state.items()})
    model = HCFlow(config)
    shapes = {key: tuple(variable.shape) for key, variable in model.named_weights().items()}
    assign_weights(model, released.map_released(state, shapes, config), source=name)
    indices = {key: np.full(value.shape, index, np.float32) for index, (key, value) in enumerate(state.items())}
    indices |= {key: state[key] for key in state if key.endswith("haar_weights")}  # constants here, and checked as such
    origins = released.map_released(indices, shapes, config)
    return model, {key: np.asarray(value) for key, value in origins.items()}


class RecordedStep:
    """Iterations of a recipe on the fixture's images with given noise and without a change of the weights."""

    def __init__(self, monkeypatch, model: HCFlow, recipe: str, reference: dict, *sets: str):
        overrides = [f"model={model.config.model_dump_json()}", "training.batch_size=2", *UNCLIPPED, *sets]
        self.config = load_config(CONFIGS / f"{recipe}.yaml", overrides)
        self.images = [tf.constant(nhwc(reference[name])) for name in ("hr", "lr")]
        self.latents = [tf.Variable(nhwc(reference[f"decode_tau0.8_eps_level{level}"])) for level in (1, 2)]
        self.gradients: list[np.ndarray] = []
        noise = {"uniform": tf.zeros([]), "normal": self.latents}
        monkeypatch.setattr(TrainingStep, "_draw_noise", lambda *args: noise)
        monkeypatch.setattr(FlatOptimizer, "apply", lambda optimizer, gradient, rate: self.gradients.append(gradient.numpy()))
        self.step = TrainingStep(self.config, model, make_strategy("cpu"))

    def __call__(self) -> tuple[dict[str, float], list[np.ndarray]]:
        """The weighted losses, and the gradient of each update."""
        self.gradients.clear()
        values, skipped = self.step(*self.images, 0)
        assert not skipped
        return {name: getattr(self.config.losses, name) * value for name, value in values.items()}, self.gradients


def assert_gradient_norms(
    gradient: np.ndarray, step: RecordedStep, origins: dict, expected: dict[str, float], fixture: str
) -> None:
    """Frobenius norms over the values of each released entry, wherever they are kept here."""
    names = list(np.load(PARITY / f"{fixture}_weights.npz").files)
    origin = np.concatenate([origins[variable.path.split("/", 1)[1]].ravel() for variable in step.step.optimizer.variables])
    for name, norm in expected.items():
        ours = np.linalg.norm(gradient if name == "all" else gradient[origin == names.index(name)])
        assert ours == pytest.approx(norm, rel=TOLERANCE), name


def test_super_resolution_losses_and_gradients(monkeypatch):
    """NLL and pixel loss as separate updates; the noise is not 0, so that the pixel loss's temperature 0 shows."""
    model, origins = released_model("sr_x4_tiny")
    reference, expected = dict(np.load(PARITY / "sr_x4_tiny.npz")), read_json("losses_tiny")["sr_x4_tiny"]
    step = RecordedStep(monkeypatch, model, "sr_x4_plus", reference, "losses.nll=1", "training.start_from=x")
    values, gradients = step()
    assert values["nll"] == pytest.approx(expected["nll"], rel=TOLERANCE)
    assert values["pixel"] == pytest.approx(expected["pixel_l1_tau0"], rel=TOLERANCE)
    for gradient, name in zip(gradients, ("nll", "pixel"), strict=True):
        assert_gradient_norms(gradient, step, origins, expected[f"{name}_gradient_norms"], "sr_x4_tiny")


def test_rescaling_losses_and_gradients(monkeypatch):
    """All three terms and the gradient of their sum, with the weights and the temperature of configs/rescale_x4.yaml."""
    model, origins = released_model("rescale_x4_tiny")
    reference, stored = dict(np.load(PARITY / "rescale_x4_tiny.npz")), read_json("losses_tiny")
    step = RecordedStep(monkeypatch, model, "rescale_x4", reference)
    for latents in ("latents_decode_tau0.8_eps", "latents_zero"):
        expected = stored[f"rescale_x4_tiny {latents}"]
        if latents == "latents_zero":
            for latent in step.latents:
                latent.assign(tf.zeros_like(latent))
        values, (gradient,) = step()
        for ours, theirs in (("lr", "l_g_lr"), ("latent", "l_g_z"), ("pixel", "l_g_hr")):
            assert values[ours] == pytest.approx(expected[theirs], rel=TOLERANCE), ours
        assert_gradient_norms(gradient, step, origins, expected["total_gradient_norms"], "rescale_x4_tiny")


@pytest.mark.parametrize("name", ["sr_x4", "sr_x4_plus", "sr_x4_plusplus", "rescale_x4", "face_x8", "face_x8_plusplus"])
def test_released_recipes_clip_and_compact_ones_say_that_they_do_not(name):
    assert load_config(CONFIGS / f"{name}.yaml").losses.clip
    for compact in ("sr_x4_compact", "rescale_x4_compact", "quickstart"):
        assert not load_config(CONFIGS / f"{compact}.yaml").losses.clip


@pytest.mark.parametrize("kind", ["gan", "ragan"])
def test_gan_losses(kind):
    reference = dict(np.load(PARITY / "gan_losses_tiny.npz"))
    real, fake = (tf.constant(reference[f"logits_{kind}"]) for kind in ("real", "fake"))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([real, fake])
        if kind == "gan":
            generator = losses.adversarial(fake, real=True)
            critic = losses.adversarial(real, real=True) + losses.adversarial(fake, real=False)
        else:
            generator = losses.relativistic(fake, tf.stop_gradient(real), real=True, mean=tf.reduce_mean)
            critic = losses.relativistic(real, fake, real=True, mean=tf.reduce_mean)
        generator, critic = tf.reduce_mean(generator), tf.reduce_mean(critic)
    np.testing.assert_allclose(generator, reference[f"{kind}_generator_loss"], rtol=TOLERANCE)
    np.testing.assert_allclose(critic, reference[f"{kind}_discriminator_loss"], rtol=TOLERANCE)
    for loss, logits, name in (
        (generator, fake, "generator_gradient_fake"),
        (critic, real, "discriminator_gradient_real"),
        (critic, fake, "discriminator_gradient_fake"),
    ):
        np.testing.assert_allclose(tape.gradient(loss, logits), reference[f"{kind}_{name}_logits"], rtol=TOLERANCE, atol=1e-6)


@pytest.fixture(scope="module", params=["gan", "ragan"])
def gan(request):
    """The training step of sr_x4_plusplus with the fixture's discriminator and VGG; its decoder returns the free image `fake`."""
    reference = dict(np.load(PARITY / "gan_step_tiny.npz"))
    part = {
        kind: {key.removeprefix(f"{kind}."): value for key, value in reference.items() if key.startswith(f"{kind}.")}
        for kind in ("netD", "netF")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_dict, "read_state_dict", lambda path: part["netF"])
        sizes = "{scale: 4, main_steps: 1, conditional_steps: 1, main_width: 4, conditional_width: 4, rrdb_blocks: [1, 1]}"
        file = PARITY / "gan_step_tiny.pth"  # stands for the state dict that the fixture's .npz holds
        patch.setattr(pathlib.Path, "is_file", lambda path, is_file=pathlib.Path.is_file: path == file or is_file(path))
        overrides = ["training.batch_size=2", "training.start_from=x", f"losses.vgg_weights={file}", f"model={sizes}"]
        overrides.append("losses.discriminator_width=4")
        overrides.append(f"losses.adversarial_kind={'vanilla' if request.param == 'gan' else 'relativistic'}")
        config = load_config(CONFIGS / "sr_x4_plusplus.yaml", overrides)
        _, step = make_step(config)
    load_discriminator(step.discriminator, part["netD"])
    return step, reference, read_json("gan_step_tiny")["losses"], request.param


def load_discriminator(network, state: dict[str, np.ndarray]) -> None:
    """The authors' weights: kernels transposed, and the flattened image in (row, column, channel) order."""
    first_dense = state["linear1.weight"].reshape(100, 32, 5, 5).transpose(2, 3, 1, 0).reshape(800, 100)
    values = []
    for key, value in state.items():
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        elif value.ndim == 2:
            value = first_dense if key == "linear1.weight" else value.T
        values.append(value)
    network.set_weights(values)


def gradients_on_replica(step: TrainingStep, compute, sources) -> tuple[dict[str, tf.Tensor], dict[str, list[tf.Tensor]]]:
    """Means of the losses over the batch, and their gradients."""

    def on_replica():
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(sources)
            means = {name: tf.reduce_mean(value) for name, value in compute().items()}
        return means, {name: tape.gradient(mean, sources) for name, mean in means.items()}

    return step.strategy.run(on_replica)


def images_of(reference: dict[str, np.ndarray]) -> tuple[tf.Tensor, tf.Tensor]:
    return tuple(tf.constant(nhwc(reference[kind]).astype(np.float32) / 255) for kind in ("real", "fake"))


def test_generator_losses_of_the_adversarial_recipe(gan, monkeypatch):
    step, reference, expected, adversarial = gan
    real, fake = images_of(reference)
    monkeypatch.setattr(TrainingStep, "_decode", lambda *args: fake)

    def compute():
        return step._generator_losses(("perceptual", "adversarial"), real, real[:, ::4, ::4], real[:, ::4, ::4], {})

    means, gradients = gradients_on_replica(step, compute, [fake])
    for ours, kind, theirs in (("adversarial", adversarial, "l_g_gan"), ("perceptual", "perceptual", "l_g_fea")):
        weight = getattr(step.config.losses, ours)
        assert weight * float(means[ours]) == pytest.approx(expected[kind][theirs], rel=TOLERANCE)
        gradient = weight * gradients[ours][0].numpy()
        assert np.linalg.norm(gradient) == pytest.approx(expected[kind]["generator_gradient_wrt_fake_norm"], rel=TOLERANCE)
        if kind == "ragan":  # the fixture has its norm alone
            continue
        stored = nhwc(reference[f"{kind}_generator_gradient_wrt_fake_first_image"])
        atol = TOLERANCE * np.abs(stored).max()
        np.testing.assert_allclose(gradient[:1, ::8, ::8], stored, rtol=0, atol=atol)


def test_discriminator_loss_of_the_adversarial_recipe(gan, monkeypatch):
    """Real and fake images pass separately, each with its own statistics: one batch of both would give other logits."""
    step, reference, expected, adversarial = gan
    real, fake = images_of(reference)
    monkeypatch.setattr(TrainingStep, "_decode", lambda *args: fake)
    variables = {variable.path: variable.value for variable in step.discriminator.trainable_variables}
    convolutions = [variable for path, variable in variables.items() if "conv" in path and path.endswith("kernel")]
    dense = [variable for path, variable in variables.items() if "dense" in path and path.endswith("kernel")]
    scales = [variable for path, variable in variables.items() if path.endswith("gamma")]
    sources = [convolutions[0], scales[4], convolutions[9], *dense]

    def compute():
        return step._discriminator_losses(("discriminator",), real, real[:, ::4, ::4], real[:, ::4, ::4], {})

    means, gradients = gradients_on_replica(step, compute, sources)
    assert float(means["discriminator"]) == pytest.approx(expected[adversarial]["l_d_total"], rel=TOLERANCE)
    norms = expected[adversarial]["discriminator_gradient_norms"]
    for gradient, (name, norm) in zip(gradients["discriminator"], norms.items(), strict=True):
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=TOLERANCE), name


def test_discriminator_logits(gan):
    step, reference, *_ = gan
    real, fake = images_of(reference)
    for images, name in ((real, "logits_real"), (fake, "logits_fake")):
        logits = step.strategy.run(lambda images: step.discriminator(images, training=True), (images,))
        np.testing.assert_allclose(logits, reference[name], rtol=0, atol=TOLERANCE)


def test_perceptual_features(gan):
    step, reference, *_ = gan
    for images, name in zip(images_of(reference), ("real", "fake"), strict=True):
        stored = nhwc(reference[f"perceptual_features_{name}"])
        np.testing.assert_allclose(step.features(images)[0], stored, rtol=0, atol=TOLERANCE * np.abs(stored).max())


def test_moving_average_has_the_decay_of_the_config():
    """The first step's average is its weights; each later one moves by 1 - decay towards the new weights."""
    config = make_config("training.ema=0.5")
    model, step = make_step(config)
    hr, lr = (tf.constant(array) for array in batch())
    expected = None
    for index in range(3):
        step(hr, lr, index)
        step.optimizer.write_weights()
        weights = weights_of(model)
        expected = weights if expected is None else 0.5 * expected + 0.5 * weights
    with step.optimizer.averaged_weights():
        np.testing.assert_allclose(weights_of(model), expected, rtol=0, atol=1e-6)
    assert np.abs(expected - weights_of(model)).max() > 1e-3
