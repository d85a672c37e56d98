"""The paper's ablation cases are configs: each trains, and is a bijection with the log-determinant that it says."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from training_runs import make_step

from hcflow_tf.config import Config, load_config
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.training.validation import validate

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
CASES = range(1, 6)
TINY = (
    "model.main_steps=1", "model.conditional_steps=1", "model.main_width=4", "model.conditional_width=4",
    "model.rrdb_blocks=[1, 1]", "model.rrdb_features=4", "model.rrdb_growth=2", "data.crop_size=32",
    "training.batch_size=2",
)  # fmt: skip


def tiny(case: int) -> Config:
    return load_config(CONFIGS / f"ablation/case_{case}.yaml", TINY)


@pytest.mark.parametrize("case", CASES)
def test_differs_from_the_full_model_in_its_conditions_alone(case):
    full, config = load_config(CONFIGS / "sr_x4.yaml"), load_config(CONFIGS / f"ablation/case_{case}.yaml")
    assert config.model != full.model
    conditions = {"conditions": full.model.conditions, "lr_is_output": full.model.lr_is_output}
    assert config.model.model_copy(update=conditions) == full.model
    assert config.model_copy(update={"model": full.model}) == full


@pytest.mark.parametrize("case", CASES)
def test_case_trains_and_stays_a_bijection(case):
    config = tiny(case)
    model, step = make_step(config)
    rng = np.random.default_rng(0)
    hr = rng.random((2, 32, 32, 3)).astype(np.float32)
    lr = hr.reshape(2, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    before = [variable.numpy() for variable in model.weights]
    losses = [step(tf.constant(hr), tf.constant(lr), index)[0]["nll"] for index in range(4)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    step.optimizer.write_weights()
    changed = [bool((value != variable.numpy()).any()) for value, variable in zip(before, model.weights, strict=True)]
    assert np.mean(changed) > 0.95
    own_lr, latents = model.encode(hr, lr)
    given = np.asarray(own_lr)
    assert np.allclose(given, lr, atol=1e-6) == (case in (1, 2))  # no output of theirs: the given one comes back
    if case == 3:  # y_2 is an output, but what conditions level 2 is the given LR image
        restored = model.flow.inverse_and_log_det([own_lr, *latents], lr=lr)[0]
    else:
        restored = model.decode(given, latents)
    np.testing.assert_allclose(restored, hr, atol=1e-4)
    folded = InferenceModel(model)
    np.testing.assert_allclose(folded.decode(lr, latents), model.decode(lr, latents), atol=1e-4)
    np.testing.assert_allclose(folded.log_prob(hr, lr), model.log_prob(hr, lr), rtol=1e-4)
    figures, pictures = validate(model, [("a", (hr[0] * 255).astype(np.uint8), (lr[0] * 255).astype(np.uint8))])
    assert np.isfinite(figures["bits_per_dim"]) and ("lr_psnr" in figures) == (case not in (1, 2))
    assert len(pictures) == 4


def test_conditions_that_cannot_be_are_refused():
    from hcflow_tf.support.errors import UsageError

    for override, message in (
        ("model.conditions=[own]", "expected one for each of the 2 levels, got 1"),
        ("model.conditions=[own, own_and_below]", "the last level has no image of its own, got own_and_below"),
    ):
        with pytest.raises(UsageError, match=message):
            load_config(CONFIGS / "ablation/case_1.yaml", [override])
