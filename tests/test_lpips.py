"""LPIPS against the published package's distances, with backbones drawn by the stored rule."""

from __future__ import annotations

import json
import math
import pathlib

import numpy as np
import pth
import pytest
import tensorflow as tf
from tiny import photograph, tiny_model
from training_runs import batch, make_config, make_step

from hcflow_tf.data.resize import imresize
from hcflow_tf.images.images import read_image, write_image
from hcflow_tf.metrics import lpips as metric
from hcflow_tf.metrics.images import UndefinedError
from hcflow_tf.metrics.psnr import psnr
from hcflow_tf.networks.lpips import LPIPS, NETWORKS, _unit
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.weights.store import save_model


def drawn(network: str, seed: int) -> dict[str, np.ndarray]:
    """Weights by the rule of lpips_pairs.json."""
    rng, state, inputs = np.random.default_rng(seed), {}, 3
    for group in NETWORKS[network]:
        for index, side, outputs in group.convolutions:
            weight = rng.standard_normal((outputs, inputs, side, side)) * math.sqrt(2 / (inputs * side * side))
            state[f"features.{index}.weight"] = weight.astype(np.float32)
            state[f"features.{index}.bias"] = (rng.standard_normal(outputs) * 0.05).astype(np.float32)
            inputs = outputs
    return state


@pytest.fixture(scope="module")
def alex():
    return drawn("alex", 20210701)


@pytest.fixture(scope="module")
def stored(shared):
    folder = shared / "fixtures/metrics"
    if not (folder / "lpips_pairs.json").is_file():
        pytest.skip(f"the stored distances are not in {folder}")
    return json.loads((folder / "lpips_pairs.json").read_text()), dict(np.load(folder / "lpips_pairs.npz"))


@pytest.mark.parametrize("network", NETWORKS)
def test_distances_of_the_published_package(network, stored, tmp_path):
    """From a file with torchvision's names, as the official one is read."""
    description, images = stored
    expected = description["nets"][network]
    state = drawn(network, expected["seed"])
    for name, facts in expected["parameters"].items():
        assert state[name].sum(dtype=np.float64) == pytest.approx(facts["sum_float64"], rel=1e-9), name
    path = pth.save(state | {"classifier.1.bias": np.zeros(4, np.float32)}, tmp_path / "backbone.pth")
    (name,) = (name for name, backbone in metric.NETWORK.items() if backbone == network)
    measure = metric.open_lpips([name], [path])[name]
    exact = metric.Lpips(network, state, dtype="float64")
    for pair, facts in expected["pairs"].items():
        a, b = images[f"{pair}/a"], images[f"{pair}/b"]
        if network == "alex" or pair.startswith(("woman", "black")):
            assert exact(a, b) == pytest.approx(facts["float64"], rel=1e-9, abs=1e-15), pair
        assert measure(a, b) == pytest.approx(facts["float64"], rel=1e-5, abs=1e-8), pair
    batch = [np.stack([images[f"butterfly_bicubic_64x64/{side}"], images[f"black_vs_flat_64x64/{side}"]]) / 255 for side in "ab"]
    distances = [expected["pairs"][pair]["float64"] for pair in ("butterfly_bicubic_64x64", "black_vs_flat_64x64")]
    np.testing.assert_allclose(LPIPS(network, state, dtype="float64")(tuple(batch)), distances, rtol=1e-9)


def test_gradient_is_that_of_finite_differences(alex):
    layer = LPIPS("alex", alex, dtype="float64")
    rng = np.random.default_rng(0)
    image, reference = (tf.constant(rng.random((1, 40, 36, 3))) for _ in range(2))
    with tf.GradientTape() as tape:
        tape.watch(image)
        distance = layer((image, reference))
    gradient = tape.gradient(distance, image)
    direction = rng.standard_normal(image.shape)
    step = 1e-6
    numeric = (layer((image + step * direction, reference)) - layer((image - step * direction, reference))) / (2 * step)
    assert float(tf.reduce_sum(gradient * direction)) == pytest.approx(float(numeric[0]), rel=1e-5)


def test_gradient_is_finite_where_all_features_are_zero(alex):
    dead = {name: value if name.endswith("weight") else np.full_like(value, -1e3) for name, value in alex.items()}
    image = tf.constant(np.random.default_rng(0).random((1, 40, 36, 3)))
    with tf.GradientTape() as tape:
        tape.watch(image)
        distance = LPIPS("alex", dead, dtype="float64")((image, image / 2))
    assert float(distance[0]) == 0
    assert np.isfinite(tape.gradient(distance, image)).all()


def test_the_layer_is_frozen_and_works_in_a_graph(alex):
    layer = LPIPS("alex", alex)
    assert not layer.trainable_variables
    image = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_allclose(tf.function(layer)((image, image[::-1])), layer((image, image[::-1])), rtol=1e-5)


def test_diversity_score(alex):
    measure = metric.Lpips("alex", alex, dtype="float64")
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    left, right = reference.copy(), reference.copy()
    left[:, :32], right[:, 32:] = noise[:, :32], noise[:, 32:]
    assert metric.ntire_diversity([left, left], reference, measure) == 0
    assert metric.ntire_diversity([reference, reference], reference, measure) == 0
    # Each half is right in one of the two, so choosing at each pixel gains nearly everything but what is near the seam.
    assert 50 < metric.ntire_diversity([left, right], reference, measure) < 100
    maps = np.stack([measure.spatial(image, reference) for image in (left, right)]).astype(np.float64)
    assert maps.shape == (2, 64, 64)
    best = maps.mean(axis=(1, 2)).min()
    score = 100 * (1 - maps.min(axis=0).mean() / best)
    assert metric.ntire_diversity([left, right], reference, measure) == pytest.approx(score, rel=1e-9)


def test_what_is_refused(alex, tmp_path, monkeypatch):
    measure = metric.Lpips("alex", alex)
    with pytest.raises(UndefinedError, match="at least 31 x 31 pixels, got 30 x 64"):
        measure(np.zeros((30, 64, 3), np.uint8), np.zeros((30, 64, 3), np.uint8))
    assert measure(np.zeros((31, 31, 3), np.uint8), np.zeros((31, 31, 3), np.uint8)) == 0
    with pytest.raises(HCFlowError, match=r"RGB image \[H, W, 3\]"):
        measure(np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8))
    with pytest.raises(HCFlowError, match="at least two images, got 1"):
        metric.ntire_diversity([np.zeros((64, 64, 3), np.uint8)], np.zeros((64, 64, 3), np.uint8), measure)
    other = pth.save({"conv.weight": np.zeros((2, 2), np.float32)}, tmp_path / "other.pth")
    with pytest.raises(HCFlowError, match=r"other\.pth: expected torchvision's AlexNet or VGG16 .* such as conv\.weight"):
        metric.open_lpips(["lpips"], [other])
    cut = pth.save({name: value for name, value in alex.items() if "features.8" not in name}, tmp_path / "cut.pth")
    with pytest.raises(
        HCFlowError, match=r"cut\.pth: expected an entry features\.8\.weight of shape \(256, 384, 3, 3\), found none"
    ):
        metric.open_lpips(["psnr", "lpips"], [cut])
    with pytest.raises(UsageError, match=r"cut\.pth: is for lpips, which --metrics does not name"):
        metric.open_lpips(["lpips_vgg"], [cut])


def test_download_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HCFLOW_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(HCFlowError, match=r"lpips needs alexnet-owt-7be5be79\.pth: cannot download .*; or give the file as"):
        metric.open_lpips(["lpips"])
    cached = tmp_path / "hcflow_tf" / metric.FILES["alex"]
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(b"another file")
    with pytest.raises(HCFlowError, match="expected one that begins with 7be5be79"):
        metric.open_lpips(["lpips"])


def test_evaluate(alex, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hr = photograph(40, 44)
    write_image("hr/a.png", hr)
    pth.save(alex, pathlib.Path("alex.pth"))
    save_model(tiny_model("super_resolution", scale=2), "model")
    lpips = ["--metrics", "psnr", "lpips", "--lpips-weights", "alex.pth"]
    drawing = ["--temperature", "0.8", "--samples", "2", "--save-images", "sr"]
    assert cli.execute("evaluate", ["--model", "model", "--hr", "hr", "--output", "model.json", *drawing, *lpips]) == 0
    figures = json.loads(pathlib.Path("model.json").read_text())["mean"]["temperature"]["0.8"]
    samples, measure = [read_image(f"sr/a_tau0.8_{number}.png").rgb for number in (1, 2)], metric.Lpips("alex", alex)
    assert figures["lpips"] == pytest.approx(np.mean([measure(sample, hr) for sample in samples]), rel=1e-5)
    assert figures["ntire_diversity"] == pytest.approx(metric.ntire_diversity(samples, hr, measure), rel=1e-5)
    lr = imresize(hr, 0.5)
    assert figures["ntire_lr_psnr"] == pytest.approx(np.mean([psnr(imresize(sample, 0.5), lr) for sample in samples]))
    pathlib.Path("sr/a_tau0.8_2.png").unlink()
    arguments = ["--images", "sr", "--hr", "hr", "--scale", "2", "--output", "images.json"]
    assert cli.execute("evaluate", [*arguments, *lpips]) == 0
    report = json.loads(pathlib.Path("images.json").read_text())
    assert report["mean"]["lpips"] == pytest.approx(measure(samples[0], hr), rel=1e-5)
    assert cli.execute("evaluate", [*arguments, "--overwrite", "--metrics", "lpips", "--lpips-weights", "hr/a.png"]) == 1
    assert "hr/a.png is not a PyTorch state dict" in capsys.readouterr().err


def test_training_on_it(alex, tmp_path):
    path = pth.save(alex, tmp_path / "alex.pth")
    settings = ["training.start_from=x", "losses.nll=0", "losses.lpips=1", f"losses.lpips_weights={path}", "data.crop_size=32"]
    model, step = make_step(make_config(*settings, "training.batch_size=2"))
    hr, lr = (tf.constant(array) for array in batch(2, 32))
    before = [variable.numpy() for variable in model.weights]
    values, skipped = step(hr, lr, 0)
    assert not skipped
    assert set(values) == {"lpips"}
    assert values["lpips"] > 0
    step.optimizer.write_weights()
    assert any(not np.array_equal(a, b.numpy()) for a, b in zip(before, model.weights, strict=True))


def test_epsilon_is_added_to_the_length():
    # The stored pairs have features far above it: inside the root it would be as large as this vector.
    unit = _unit(tf.constant([[[[3e-6, 4e-6]]]], tf.float64))
    np.testing.assert_allclose(unit, np.array([[[[3e-6, 4e-6]]]]) / (5e-6 + 1e-10), rtol=1e-12)
