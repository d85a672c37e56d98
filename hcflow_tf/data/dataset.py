"""Training crops and validation pairs; example i of a run is a function of (seed, i) alone."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from hcflow_tf.config import Config, ImageFolders
from hcflow_tf.data import samples
from hcflow_tf.data.cache import DiskCache, open_cache
from hcflow_tf.data.degradation import degrade_at_random
from hcflow_tf.data.graphics import Graphics
from hcflow_tf.data.pairs import Pair, find_images, load_pair, pair_names
from hcflow_tf.data.scan import Report, scan
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.files import expand_user

if TYPE_CHECKING:
    import tensorflow as tf

# The first number of every random seed says what the bits are for, so that order and crops are independent.
_ORDER, _CROP, _GRAPHICS, _DEGRADATION = 0, 1, 2, 3


class TrainingData:
    """The training images of a config: scanned and decoded on construction, then cropped at random.

    Every epoch passes through the images once, in an order drawn from (seed, epoch), and takes one crop from each; with
    `data.graphics_share`, that share of the examples is a crop of generated graphics instead. The random bits are those of
    numpy's SeedSequence and PCG64, whose streams numpy promises never to change.

    Attributes:
      report: what the scan found; `report.lines()` is text for the log.
    """

    def __init__(self, config: Config, *, show_progress: bool = False):
        """Scans the images, which with a cache also decodes those that it does not hold yet.

        Raises:
          UsageError: the config names no training images.
          HCFlowError: a folder is missing, empty or unpaired; too many bad images; the cache cannot be written.
        """
        self._data = config.data
        self._scale = config.model.scale
        self._seed = config.training.seed
        self._cache = open_cache(config.data, self._scale)
        self.report: Report = scan(
            training_pairs(config),
            self._cache,
            self._data.crop_size,
            max_bad_share=self._data.max_bad_share,
            workers=self._data.workers,
            show_progress=show_progress,
        )
        self._pairs = self.report.good
        self._graphics = Graphics(self._seed, self._data.crop_size, self._scale) if self._data.graphics_share else None
        self._order = functools.lru_cache(maxsize=4)(self._draw_order)

    @property
    def cache_bytes(self) -> int:
        """What the disk cache takes for these images; 0 without a disk cache."""
        return self._cache.size(self._pairs) if isinstance(self._cache, DiskCache) else 0

    def __len__(self) -> int:
        """The number of usable images, which is the number of examples in an epoch."""
        return len(self._pairs)

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The crop that example `index` of the run (0, 1, ... without end) trains on.

        Returns:
          hr [crop_size, crop_size, 3] and lr [crop_size / scale, crop_size / scale, 3], uint8 RGB, aligned: without a
          folder of LR images, lr is the same region of MATLAB's bicubic reduction of the whole image.

        Raises:
          HCFlowError: an image that was readable at the scan no longer is.
        """
        epoch, position = divmod(int(index), len(self._pairs))
        chance, which = np.random.SeedSequence((self._seed, _GRAPHICS, int(index))).generate_state(2, np.uint32).tolist()
        if self._graphics and chance < self._data.graphics_share * 2**32:
            hr, lr = self._graphics.get(which % len(self._graphics))
        else:
            hr, lr = self._cache.get(self._pairs[self._order(epoch)[position]])
        row, column, orientation = np.random.SeedSequence((self._seed, _CROP, int(index))).generate_state(3, np.uint32).tolist()
        size = self._data.crop_size // self._scale
        top = row * (lr.shape[0] - size + 1) >> 32
        left = column * (lr.shape[1] - size + 1) >> 32
        return (
            self._turn(hr[_window(top, left, size, self._scale)], orientation),
            self._turn(lr[_window(top, left, size, 1)], orientation),
        )

    def given(self, index: int, lr: np.ndarray) -> np.ndarray:
        """The LR image that is to be enlarged for example `index`: `lr`, degraded as `data.degradation` says."""
        return degrade_at_random(lr, self._data.degradation, (self._seed, _DEGRADATION, int(index)))

    def dataset(self, start_step: int, batch_size: int) -> tf.data.Dataset:
        """Endless batches from `start_step` on: those that an uninterrupted run would see from there.

        The values become floats here, one thread per example, so that a step function sees the same type from any source.
        For several replicas, pass the global batch size and hand the dataset to
        `strategy.experimental_distribute_dataset`, which divides the last operation but the prefetching, the batching.

        Args:
          start_step: steps already taken, of `batch_size` examples each.
          batch_size: examples per step over all replicas.

        Returns:
          Dataset of (hr [batch, crop, crop, 3], lr [batch, crop / scale, crop / scale, 3]), float32 in [0, 1], and, with
          `data.degradation`, as a third the LR images as given, of the shape of lr.
        """
        import tensorflow as tf

        crop = self._data.crop_size
        sides = [crop, crop // self._scale]

        def example(index: int) -> tuple[np.ndarray, ...]:
            hr, lr = self.example(index)
            return (hr, lr, self.given(index, lr)) if self._data.degradation.share else (hr, lr)

        if self._data.degradation.share:
            sides.append(sides[1])

        def load(index: tf.Tensor) -> tuple[tf.Tensor, ...]:
            images = tf.numpy_function(example, [index], [tf.uint8] * len(sides), stateful=False)
            for image, side in zip(images, sides, strict=True):
                image.set_shape((side, side, 3))
            return tuple(tf.cast(image, tf.float32) / 255.0 for image in images)

        indices = tf.data.Dataset.range(start_step * batch_size, np.iinfo(np.int64).max)
        examples = indices.map(load, num_parallel_calls=self._data.workers, deterministic=True)
        batches = examples.batch(batch_size, drop_remainder=True).prefetch(2)
        options = tf.data.Options()
        # Over several processes, each computes the same batches and keeps its share: there are no files to divide.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return batches.with_options(options)

    def _draw_order(self, epoch: int) -> np.ndarray:
        bits = np.random.PCG64(np.random.SeedSequence((self._seed, _ORDER, epoch))).random_raw(len(self._pairs))
        return np.argsort(bits, kind="stable")

    def _turn(self, crop: np.ndarray, orientation: int) -> np.ndarray:
        """Mirrors left to right by the lowest bit, and turns by 0 to 3 quarters by the next two, as far as configured."""
        if self._data.flip and orientation & 1:
            crop = crop[:, ::-1]
        if self._data.rotate:
            crop = np.rot90(crop, orientation >> 1 & 3)
        return np.ascontiguousarray(crop)


def training_pairs(config: Config) -> list[Pair]:
    """The training images that the config names, unchecked.

    Raises:
      UsageError: it names none.
      HCFlowError: a folder is missing, empty or unpaired.
    """
    if config.data.sample_photographs:
        return [Pair(path) for path in samples.training_photographs()]
    if not config.data.train.hr:
        raise UsageError("data.train.hr: names no folder of training images; --set data.train.hr=FOLDER")
    return _folder_pairs(config.data.train, config.model.scale, "data.train")


def validation_pairs(config: Config) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The first `data.validation_images` validation images, read one at a time.

    Yields:
      name (file name without suffix), hr [h * scale, w * scale, 3] and lr [h, w, 3], uint8 RGB; nothing if the config
      names no validation images.

    Raises:
      HCFlowError: a folder is missing, empty or unpaired, or an image is unreadable.
    """
    if config.data.sample_photographs:
        pairs = [Pair(path) for path in samples.held_out_photographs()]
    else:
        pairs = _folder_pairs(config.data.validation, config.model.scale, "data.validation")
    for pair in pairs[: config.data.validation_images]:
        yield pair.hr.stem, *load_pair(pair, config.model.scale)


def _folder_pairs(folders: ImageFolders, scale: int, key: str) -> list[Pair]:
    pairs: list[Pair] = []
    for position, folder in enumerate(folders.hr):
        hr = expand_user(folder)
        try:
            if folders.lr is None:
                pairs += [Pair(path) for path in find_images(hr)]
            else:
                pairs += pair_names(hr, expand_user(folders.lr[position]), scale)
        except HCFlowError as error:
            of_lr = folders.lr is not None and str(error).startswith(str(expand_user(folders.lr[position])))
            raise HCFlowError(f"{key}.{'lr' if of_lr else 'hr'}: {error}") from error
    return pairs


def _window(top: int, left: int, size: int, scale: int) -> tuple[slice, slice]:
    """A square of the LR grid, in pixels of an image that is `scale` times as large."""
    return slice(top * scale, (top + size) * scale), slice(left * scale, (left + size) * scale)
