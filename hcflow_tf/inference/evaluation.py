"""One image under a model, by the field's protocols, and the report of many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hcflow_tf.images.images import quantize
from hcflow_tf.inference.measurement import Measurement, Metrics, mean_metrics, to_float
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.metrics.lpips import Lpips
from hcflow_tf.metrics.report import DEFAULT_METRICS, METRICS, VERSION


class Evaluation:
    """One image: what the model is given, what it makes of it, and how good that is.

    A super-resolution model decodes the LR image; a rescaling model makes its own, rounded to 8 bits.

    Attributes:
      given_lr: [h, w, 3] uint8, what is decoded.
    """

    def __init__(
        self,
        scaler: Scaler,
        hr: np.ndarray,
        lr: np.ndarray,
        *,
        seed: int = 0,
        metrics: Sequence[str] = DEFAULT_METRICS,
        lpips: Mapping[str, Lpips] | None = None,
        undefined: Callable[[str], object] | None = None,
        likelihood: bool = True,
        quantization_levels: int = 256,
    ):
        """Prepares the image; `sample` measures.

        Args:
          scaler: the model.
          hr: [scale h, scale w, 3] uint8.
          lr: [h, w, 3] uint8.
          seed: of the latents and the dequantisation noise.
          metrics: of `report.METRICS`.
          lpips: as `report.image_metrics` takes it.
          undefined: as `report.image_metrics` takes it.
          likelihood: whether to compute bits_per_dim, where the model has it.
          quantization_levels: q of the dequantisation noise.
        """
        self._scaler, self._seed, self._lpips = scaler, seed, lpips or {}
        self._makes_lr = scaler.runtime.makes_lr
        self._measurement = Measurement(hr, lr, scaler.scale, metrics, lpips, undefined)
        self.given_lr, self._independent_of_temperature = lr, Metrics()
        if scaler.runtime.can_downscale:
            encoded = quantize(scaler.downscale(to_float(hr)))
            self._independent_of_temperature |= self._measurement.encoded(encoded)
            self.given_lr = encoded if self._makes_lr else lr
        if likelihood and scaler.runtime.has_likelihood and not self._makes_lr:
            self._independent_of_temperature |= self._measurement.likelihood(
                scaler.log_prob,
                seed=seed,
                quantization_levels=quantization_levels,
                lr_multiple=scaler.runtime.lr_multiple,
            )

    def sample(self, temperature: float, samples: int) -> tuple[list[np.ndarray], Metrics]:
        """Returns `draw`'s images and their figures.

        PSNR, SSIM, consistency and the like are means over the samples. At temperature 0, one image stands for all.
        """
        images = self.draw(temperature, samples)
        figures = self._measurement.restored(images, from_own_lr=self._makes_lr)
        if not self._makes_lr and "lpips" in self._lpips:
            figures |= self._measurement.ntire(images)
        return images, figures | self._independent_of_temperature

    def draw(self, temperature: float, samples: int) -> list[np.ndarray]:
        """Returns `samples` images [scale h, scale w, 3] uint8, drawn with seed, seed + 1, ...; one at temperature 0."""
        count, lr = 1 if temperature == 0 else samples, to_float(self.given_lr)
        return [quantize(self._scaler.upscale(lr, temperature, self._seed + index)) for index in range(count)]


def report(model: str, scale: int, images: Mapping[str, Mapping[str, Metrics]]) -> dict:
    """report.json of image name -> temperature -> metrics; PSNR, SSIM and the like of the first temperature stand on top, too."""
    temperatures = next(iter(images.values())).keys()
    mean = {temperature: mean_metrics([image[temperature] for image in images.values()]) for temperature in temperatures}
    return {
        "model": model,
        "metrics_version": VERSION,
        "scale": scale,
        "images": {name: _with_head(by_temperature) for name, by_temperature in images.items()},
        "mean": _with_head(mean),
    }


def output_report(folder: str, scale: int, images: Mapping[str, Metrics]) -> dict:
    """report.json of image name -> metrics, for the images of another program, which have no temperature."""
    return {
        "model": folder,
        "metrics_version": VERSION,
        "scale": scale,
        "images": {name: dict(metrics) for name, metrics in images.items()},
        "mean": mean_metrics(list(images.values())),
    }


def _with_head(by_temperature: Mapping[str, Metrics]) -> dict:
    first = next(iter(by_temperature.values()))
    names = [name for name in first if name in METRICS or name.rpartition("_")[0] in METRICS]
    return {name: first[name] for name in names} | {"temperature": dict(by_temperature)}
