"""Files of an earlier version keep working: the shipped models and a run directory give the images that they gave then.

`tests/fixtures/earlier` was written by the program of commit d310a82, before its architecture was written once.
"""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest

from hcflow_tf import load_model
from hcflow_tf.support import cli

EARLIER = pathlib.Path(__file__).parent / "fixtures/earlier"
TOLERANCE = 1e-3  # the images are stored in float16


@pytest.fixture(scope="module")
def images():
    with np.load(EARLIER / "images.npz") as file:
        return dict(file)


@pytest.mark.parametrize("model", ["sr-x4-compact", "rescale-x4-compact", EARLIER / "run"])
def test_the_same_images(model, images):
    name = "oldrun" if isinstance(model, pathlib.Path) else model
    model, lr = load_model(model), images["lr"]
    np.testing.assert_allclose(model.sample(lr, 0.0), images[f"{name}/temperature_0"], atol=TOLERANCE)
    np.testing.assert_allclose(model.encode(model.sample(lr, 0.0))[0], images[f"{name}/encode_lr"], atol=TOLERANCE)
    shapes = (1, 40, 48, 6), (1, 20, 24, 21)
    latents = [0.5 * np.random.default_rng(7 + i).standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)]
    decoded = np.clip(model.decode(lr, latents), 0, 1)
    np.testing.assert_allclose(decoded, images[f"{name}/latents"], atol=TOLERANCE)


def test_a_run_goes_on(tmp_path, capsys):
    run = shutil.copytree(EARLIER / "run", tmp_path / "run")
    more = ["--set", "training.steps=4", "--set", "data.cache=memory", "--set", "data.workers=1"]
    assert cli.execute("train", ["--config", str(run / "config.yaml"), "--run-dir", str(run), *more]) == 0
    assert "from step 3 to 4" in capsys.readouterr().out
