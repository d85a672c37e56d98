"""Validation in training and `hcflow evaluate` measure the same figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hcflow_tf.data.resize import imresize
from hcflow_tf.support import cli
from hcflow_tf.training.validation import validate
from hcflow_tf.weights.store import save_model
from tests.tiny import photograph, tiny_model


@pytest.mark.parametrize(("task", "temperature"), [("super_resolution", 0.0), ("rescaling", 0.0), ("rescaling", 1.0)])
def test_validation_gives_what_evaluate_gives(task, temperature, tmp_path):
    model = tiny_model(task)
    pairs = []
    for name, size in (("a", (64, 80)), ("b", (72, 64))):
        hr = photograph(*size, seed=len(pairs))
        pairs.append((name, hr, imresize(hr, 1 / model.scale)))
        for kind, image in (("HR", hr), ("LR", pairs[-1][2])):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / kind / f"{name}.png")
    save_model(model, tmp_path / "model")
    folders = ["--hr", str(tmp_path / "HR"), "--lr", str(tmp_path / "LR"), "--temperature", str(temperature)]
    output = ["--output", str(tmp_path / "report.json")]
    assert cli.execute("evaluate", ["--model", str(tmp_path / "model"), *folders, *output]) == 0

    figures, pictures = validate(model, pairs, temperature=temperature)

    expected = json.loads((tmp_path / "report.json").read_text())["mean"]["temperature"][str(temperature)]
    assert figures.keys() == expected.keys()
    assert ("bits_per_dim" in figures) == (task == "super_resolution")
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-3), name
    assert [picture.shape for picture in pictures] == [(64, 80, 3)] * 4
    assert (pictures[1] != pictures[2]).any()  # this temperature, and 0.8


def test_weights_that_overflow_do_not_end_a_training():
    model = tiny_model("super_resolution")
    model.levels[0].gaussian.weights[0].assign(np.full(model.levels[0].gaussian.weights[0].shape, np.nan))
    hr = photograph(64, 64)
    figures, pictures = validate(model, [("a", hr, imresize(hr, 0.25))])
    assert np.isfinite(list(figures.values())).all()
    assert figures["bits_per_dim"] > 1e30  # not a cost that a working model could have
    assert (pictures[1] == 0).all()
