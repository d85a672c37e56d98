"""What a new coupling costs: its bijector, its network, and one line in the assembly (CONTRIBUTING.md)."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny_config

from hcflow_tf.bijectors import FlowBijector
from hcflow_tf.bijectors.base import check_image, run_network, sum_per_image
from hcflow_tf.models import hcflow
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.networks.layers import Conv
from hcflow_tf.networks.part import Part


# 1. The bijector: value and log-determinant of each direction.
class ScaleCoupling(FlowBijector):
    """y = concat(z_a, z_b exp(tanh(network(z_a))))."""

    def __init__(self, network):
        super().__init__()
        self._network = network

    def _check_forward(self, x):
        check_image(self.name, x)

    def _forward_and_log_det(self, x):
        passed, changed = tf.split(x, 2, axis=-1)
        log_scale = tf.tanh(run_network(self._network, passed))
        return tf.concat([passed, changed * tf.exp(log_scale)], -1), sum_per_image(log_scale)

    def _inverse_and_log_det(self, y):
        passed, changed = tf.split(y, 2, axis=-1)
        log_scale = tf.tanh(run_network(self._network, passed))
        return tf.concat([passed, changed * tf.exp(-log_scale)], -1), -sum_per_image(log_scale)


# 2. Its network: what owns the weights, and the function over them.
class OneConvolution(Part, keras.layers.Layer):
    def __init__(self, channels, width, *, border=None, **kwargs):
        super().__init__(**kwargs)
        self.conv = Conv(channels // 2, channels // 2, border=border, dtype=self.dtype_policy, name="conv")

    @property
    def function(self):
        return self.conv.function

    def build(self, input_shape=None):
        self.conv.build(None)

    def effective(self, value=tf.convert_to_tensor):
        return self.conv.effective(value)


@pytest.fixture(params=["zeros", "replicate"])
def model(request, monkeypatch) -> hcflow.HCFlow:
    # 3. One line of the assembly.
    kind = hcflow.CouplingKind(OneConvolution, lambda network, log_scale: ScaleCoupling(network))
    monkeypatch.setattr(hcflow, "coupling_kind", lambda config, index: kind)
    keras.utils.set_random_seed(0)
    return hcflow.HCFlow(tiny_config("super_resolution", 2, padding=request.param), dtype="float64")


def test_a_new_coupling_works_everywhere(model):
    assert "level_1/main_step_1/network/conv/kernel" in model.named_weights()
    hr = np.random.default_rng(0).random((2, 4, 4, 3))
    model.initialise_actnorm(hr)
    lr, latents = model.encode(np.full((1, 8, 8, 3), 0.3))  # flat to its border, if the network takes the border it is handed
    unevenness = max(np.ptp(part, axis=(1, 2)).max() for part in (lr, *latents))
    assert (unevenness < 1e-10) == model.config.repeats_border
    lr, latents = model.encode(hr)
    np.testing.assert_allclose(model.decode(lr, latents), hr, atol=1e-10)
    np.testing.assert_allclose(InferenceModel(model).decode(lr, latents), hr, atol=1e-10)
    flat = tf.Variable(hr[:1].ravel())

    def encoded() -> tf.Tensor:
        parts, _ = model.flow.forward_and_log_det(tf.reshape(flat, [1, 4, 4, 3]))
        return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)

    with tf.GradientTape(persistent=True) as tape:
        values = encoded()
    jacobian = tape.jacobian(values, flat, experimental_use_pfor=False)
    log_det = model.flow.forward_and_log_det(hr[:1])[1]
    np.testing.assert_allclose(np.linalg.slogdet(jacobian).logabsdet, log_det[0], atol=1e-8)


def test_a_new_coupling_is_trained(model):
    hr = tf.constant(np.random.default_rng(0).random((2, 4, 4, 3)))

    @tf.function(autograph=False)
    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            parts, log_det = model.computed_flow().forward_and_log_det(hr)
            loss = tf.add_n([tf.reduce_sum(part**2) for part in parts]) - tf.reduce_sum(log_det)
        return tape.gradient(loss, [model.named_weights()["level_1/main_step_1/network/conv/kernel"].value])

    assert np.abs(gradients()[0]).max() > 1e-3
