"""How good a model is in the middle of its training: what `hcflow evaluate` measures, on a few images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from hcflow_tf.inference.evaluation import Evaluation
from hcflow_tf.inference.measurement import mean_metrics
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.models.complexity import measure
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.runtimes.runtime import Runtime

SAMPLE_TEMPERATURE = 0.8
SEED = 0

Pair = tuple[str, np.ndarray, np.ndarray]


def validate(
    model: TrainedModel, pairs: Iterable[Pair], quantization_levels: int = 256, *, temperature: float = 0.0
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Measures the model on whole images.

    Super-resolution decodes the true LR image, rescaling its own LR image rounded to 8 bits.

    Args:
      model: the model.
      pairs: (name, hr, lr), uint8, hr a multiple of the scale.
      quantization_levels: q of the dequantisation noise, for bits per dimension.
      temperature: of the decoded images.

    Returns:
      Means over the images of the figures of `hcflow evaluate`: psnr_rgb, psnr_y, lr_psnr (dB), ssim_rgb,
      ssim_y and, for super-resolution, consistency (dB) and bits_per_dim; and of the first image [LR, decoded, at
      temperature 0.8, HR], uint8, all in the size of HR.
    """
    scaler = Scaler(ModelInTraining(model))
    rows: list[dict[str, float]] = []
    pictures: list[np.ndarray] = []
    for _, hr, lr in pairs:
        evaluation = Evaluation(scaler, hr, lr, seed=SEED, quantization_levels=quantization_levels)
        (best,), figures = evaluation.sample(temperature, 1)
        rows.append(figures)
        if not pictures:
            shown = evaluation.given_lr.repeat(model.scale, axis=0).repeat(model.scale, axis=1)
            pictures = [shown, best, *evaluation.draw(SAMPLE_TEMPERATURE, 1), hr]
    return mean_metrics(rows), pictures


class ModelInTraining(Runtime):
    """A live model: its weights as they are at each call.

    What overflows early in a training must not end it: a NaN is shown as 0, a likelihood that is not finite as the least.
    """

    on_gpu = True

    def __init__(self, model: TrainedModel):
        self.name, self.makes_lr, self.scale = model.name, model.config.makes_lr, model.scale
        self.latents, self.can_encode, self.has_likelihood = model.latents, model.can_encode, model.has_likelihood
        cost = measure(model.config, {name: weight.shape for name, weight in model.named_weights().items()})
        self.overlap, self.decode_bytes = cost.overlap, cost.decode_bytes
        self._model = model

    @property
    def can_downscale(self) -> bool:
        """See `Runtime.can_downscale`."""
        return self._model.flow.has_lr

    def decode(self, lr: np.ndarray, latents: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.decode`."""
        drawn = any(np.any(latent) for latent in latents)
        return np.nan_to_num(self._model.decode(lr, latents if drawn else None, guard=True).numpy())

    def downscale(self, hr: np.ndarray) -> np.ndarray:
        """See `Runtime.downscale`."""
        return np.nan_to_num(self._model.downscale(hr).numpy())

    def log_prob(self, hr: np.ndarray, lr: np.ndarray) -> np.ndarray:
        """See `Runtime.log_prob`."""
        least = float(np.finfo(np.float32).min)
        return np.nan_to_num(self._model.log_prob(hr, lr).numpy(), nan=least, posinf=least, neginf=least)
