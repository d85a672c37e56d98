"""The losses of the recipes."""

from hcflow_tf.losses.recipes import (
    adversarial,
    l1,
    l2,
    latent_l2,
    lr_l2,
    relativistic,
    round_straight_through,
    training_log_prob,
    values_per_image,
)

__all__ = [
    "adversarial",
    "l1",
    "l2",
    "latent_l2",
    "lr_l2",
    "relativistic",
    "round_straight_through",
    "training_log_prob",
    "values_per_image",
]
