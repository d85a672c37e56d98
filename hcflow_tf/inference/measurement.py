"""What every figure of an image is measured by: `evaluate`, `compare`, the Beam pipeline and the validation of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hcflow_tf.data.resize import imresize
from hcflow_tf.images.images import ImageError
from hcflow_tf.metrics.bits_per_dim import bits_per_dim
from hcflow_tf.metrics.consistency import consistency
from hcflow_tf.metrics.diversity import diversity
from hcflow_tf.metrics.lpips import Lpips, ntire_diversity
from hcflow_tf.metrics.psnr import psnr
from hcflow_tf.metrics.report import DEFAULT_METRICS, image_metrics

Metrics = dict[str, float]


def check_measurable(name: object, hr: np.ndarray, scale: int) -> None:
    """Checks that an image [h, w, 3] is large enough for SSIM after cropping `scale` pixels at each border.

    Raises:
      ImageError: it is not.
    """
    height, width = hr.shape[:2]
    if min(height, width) < 2 * scale + 11:
        raise ImageError(f"{name}: {width} x {height} pixels are too few to measure at x{scale}")


def to_float(image: np.ndarray) -> np.ndarray:
    """8-bit values as float32 in [0, 1]."""
    return image.astype(np.float32) / np.float32(255)


class Measurement:
    """An HR image and its LR image, and what is measured against them; all images are uint8 RGB."""

    def __init__(
        self,
        hr: np.ndarray,
        lr: np.ndarray | None,
        scale: int,
        metrics: Sequence[str] = DEFAULT_METRICS,
        lpips: Mapping[str, Lpips] | None = None,
        undefined: Callable[[str], object] | None = None,
    ):
        """Args: hr, [scale h, scale w, 3]; lr, [h, w, 3] or None; the others as `report.image_metrics` takes them."""
        self._hr, self._lr, self._scale = hr, lr, scale
        self._names, self._lpips, self._undefined = metrics, lpips or {}, undefined

    def restored(self, images: Sequence[np.ndarray], *, from_own_lr: bool = False) -> Metrics:
        """The figures of an image, or the means over the samples of one, and `diversity` of two samples or more.

        Args:
          images: [scale h, scale w, 3] each.
          from_own_lr: they were not made from the LR image but from one that the model made: then consistency says nothing.

        Raises:
          UndefinedError: LPIPS, NIQE or BRISQUE has no value for an image, and nobody is told.
        """
        rows = [image_metrics(image, self._hr, self._scale, self._names, self._lpips, self._undefined) for image in images]
        figures = {name: value for name, value in mean_metrics(rows).items() if all(name in row for row in rows)}
        if len(images) > 1:
            figures["diversity"] = diversity(images)
        if not from_own_lr:
            figures["consistency"] = float(np.mean([consistency(image, self._hr, self._scale) for image in images]))
        return figures

    def ntire(self, images: Sequence[np.ndarray]) -> Metrics:
        """The figures of the NTIRE 2021 challenge: ntire_lr_psnr and, with LPIPS and two samples or more, ntire_diversity."""
        figures = {}
        if "lpips" in self._lpips and len(images) > 1:
            figures["ntire_diversity"] = ntire_diversity(images, self._hr, self._lpips["lpips"])
        if self._lr is not None:
            shrunk = [psnr(imresize(image, 1 / self._scale), self._lr) for image in images]
            figures["ntire_lr_psnr"] = float(np.mean(shrunk))
        return figures

    def encoded(self, lr: np.ndarray) -> Metrics:
        """`lr_psnr` of the LR image that a model made of HR."""
        return {"lr_psnr": psnr(lr, self._given_lr())}

    def likelihood(
        self,
        log_prob: Callable[[np.ndarray, np.ndarray], float],
        *,
        seed: int,
        quantization_levels: int = 256,
        lr_multiple: int = 1,
    ) -> Metrics:
        """`bits_per_dim` of HR with dequantisation noise of this seed.

        Args:
          log_prob: (hr, lr), float32 in [0, 1] -> log p(hr | lr), nats.
          seed: of the noise.
          quantization_levels: q of the noise u / q.
          lr_multiple: what height and width of the LR image must be divisible by; what is over at the right and bottom is
            left out, so of an image with less than that there is no figure.
        """
        noise = np.random.default_rng(seed).random(self._hr.shape, np.float32) / np.float32(quantization_levels)
        lr = self._given_lr()
        rows, columns = (side // lr_multiple * lr_multiple for side in lr.shape[:2])
        hr = (to_float(self._hr) + noise)[: rows * self._scale, : columns * self._scale]
        if not hr.size:
            return {}
        value = log_prob(hr, to_float(lr[:rows, :columns]))
        return {"bits_per_dim": bits_per_dim(value, *hr.shape[:2], quantization_levels=quantization_levels)}

    def _given_lr(self) -> np.ndarray:
        if self._lr is None:
            raise ValueError("there is no LR image to measure against")
        return self._lr


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> Metrics:
    """The mean of every metric over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
