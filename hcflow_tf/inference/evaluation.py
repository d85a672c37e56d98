"""The figures of one image under a model, by the field's protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hcflow_tf.data.resize import imresize
from hcflow_tf.images.images import ImageError, quantize
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.metrics.bits_per_dim import bits_per_dim
from hcflow_tf.metrics.consistency import consistency
from hcflow_tf.metrics.diversity import diversity
from hcflow_tf.metrics.lpips import Lpips, ntire_diversity
from hcflow_tf.metrics.psnr import psnr
from hcflow_tf.metrics.report import DEFAULT_METRICS, METRICS, VERSION, image_metrics

Metrics = dict[str, float]


def min_hr_side(scale: int) -> int:
    """The shortest side of an image whose SSIM can be measured after cropping `scale` pixels at each border."""
    return 2 * scale + 11


def check_measurable(name: object, hr: np.ndarray, scale: int) -> None:
    """Checks that an image [h, w, 3] is large enough.

    Raises:
      ImageError: it is not.
    """
    height, width = hr.shape[:2]
    if min(height, width) < min_hr_side(scale):
        raise ImageError(f"{name}: {width} x {height} pixels are too few to measure at x{scale}")


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
        likelihood: bool = True,
    ):
        """Prepares the image; `sample` measures.

        Args:
          scaler: the model.
          hr: [scale h, scale w, 3] uint8.
          lr: [h, w, 3] uint8.
          seed: of the latents and the dequantisation noise.
          metrics: of `report.METRICS`.
          lpips: as `report.image_metrics` takes it.
          likelihood: whether to compute bits_per_dim, where the model has it.
        """
        self._scaler, self._hr, self._lr, self._seed = scaler, hr, lr, seed
        self._names, self._lpips = metrics, lpips or {}
        self._makes_lr = scaler.runtime.makes_lr
        self._has_likelihood = likelihood and scaler.runtime.has_likelihood and not self._makes_lr
        encoded = quantize(scaler.downscale(_to_float(hr))) if scaler.runtime.can_encode else None
        self.given_lr = encoded if self._makes_lr and encoded is not None else lr
        self._independent = self._independent_of_temperature(encoded)

    def sample(self, temperature: float, samples: int) -> tuple[list[np.ndarray], Metrics]:
        """Returns `samples` images [scale h, scale w, 3] uint8, drawn with seed, seed + 1, ..., and their figures.

        PSNR, SSIM, consistency and the like are means over the samples. At temperature 0, one image stands for all.
        """
        count = 1 if temperature == 0 else samples
        lr = _to_float(self.given_lr)
        images = [quantize(self._scaler.upscale(lr, temperature, self._seed + index)) for index in range(count)]
        return images, self._metrics(images)

    def _metrics(self, images: list[np.ndarray]) -> Metrics:
        scale = self._scaler.scale
        metrics = mean_metrics([image_metrics(image, self._hr, scale, self._names, self._lpips) for image in images])
        if len(images) > 1:
            metrics["diversity"] = diversity(images)
        if not self._makes_lr:
            metrics["consistency"] = float(np.mean([consistency(image, self._hr, scale) for image in images]))
            if "lpips" in self._lpips and len(images) > 1:
                metrics["ntire_diversity"] = ntire_diversity(images, self._hr, self._lpips["lpips"])
                metrics["ntire_lr_psnr"] = float(np.mean([psnr(imresize(image, 1 / scale), self._lr) for image in images]))
        return metrics | self._independent

    def _independent_of_temperature(self, encoded: np.ndarray | None) -> Metrics:
        metrics = {} if encoded is None else {"lr_psnr": psnr(encoded, self._lr)}
        if self._has_likelihood:
            noise = np.random.default_rng(self._seed).random(self._hr.shape, np.float32)
            log_prob = self._scaler.log_prob(_to_float(self._hr) + noise / np.float32(256), _to_float(self._lr))
            metrics["bits_per_dim"] = bits_per_dim(log_prob, *self._hr.shape[:2])
        return metrics


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> Metrics:
    """The mean of every metric over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


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


def _to_float(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255)
