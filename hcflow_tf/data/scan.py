"""The look at every training image before the first step: which are unreadable or too small, and is that too many."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from tqdm import tqdm

from hcflow_tf.data.cache import Cache
from hcflow_tf.data.pairs import Pair, check_sizes
from hcflow_tf.images.images import ImageError, read_header
from hcflow_tf.support.errors import HCFlowError, one_line

_NAMED = 5
"""How many bad images an error or a report names."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What a scan found; `good` and `bad` in the order of the pairs given."""

    good: tuple[Pair, ...]
    bad: tuple[str, ...]
    """One line for each image left out: file and reason."""
    pixels: int
    """HR pixels of the good images."""

    def lines(self) -> list[str]:
        """For the log: the counts, then the first bad images."""
        text = [f"{len(self.good):,} images, {self.pixels / 1e6:,.1f} megapixels; {len(self.bad)} left out"]
        text += [f"  left out: {one_line(reason)}" for reason in self.bad[:_NAMED]]
        return text + ([f"  and {len(self.bad) - _NAMED} more"] if len(self.bad) > _NAMED else [])


def scan(
    pairs: Sequence[Pair],
    cache: Cache,
    crop_size: int,
    *,
    max_bad_share: float,
    workers: int = 4,
    show_progress: bool = False,
) -> Report:
    """Checks every header, and decodes every image that the cache does not hold yet, which fills it.

    Bad images are left out of `Report.good`. The result depends on the files alone, not on `workers`.

    Args:
      pairs: the images, at least one.
      cache: filled on the way; without one, images are decoded once to see that it works.
      crop_size: an HR image with a shorter side, once cut to the cache's scale, is too small.
      max_bad_share: the largest share of `pairs` that may be bad, 0 to 1.
      workers: threads.
      show_progress: show a progress bar on stderr, if that is a terminal.

    Raises:
      HCFlowError: more bad images than that, naming the first five; sizes of a pair that do not fit the scale; the cache
        cannot be written.
    """
    if not pairs:
        raise HCFlowError("there are no images to scan")
    reasons: dict[Pair, str] = {}
    pixels: dict[Pair, int] = {}

    def check_header(pair: Pair) -> None:
        pixels[pair] = _check_header(pair, cache.scale, crop_size)

    def check_pixels(pair: Pair) -> None:
        if not cache.holds(pair):
            cache.get(pair)

    for label, check in (("reading headers", check_header), ("decoding", check_pixels)):
        good = [pair for pair in pairs if pair not in reasons]
        if check is check_pixels:
            cache.check_room(sum(pixels[pair] for pair in good if not cache.holds(pair)))
        results = _in_parallel(check, good, workers)
        for pair, reason in zip(good, _with_progress(results, len(good), label, show_progress), strict=True):
            if reason is not None:
                reasons[pair] = reason
        bad = tuple(reasons[pair] for pair in pairs if pair in reasons)
        _refuse_too_many(bad, len(pairs), max_bad_share)
    kept = tuple(pair for pair in pairs if pair not in reasons)
    return Report(kept, bad, sum(pixels[pair] for pair in kept))


def _check_header(pair: Pair, scale: int, crop_size: int) -> int:
    """The pixels of the HR image."""
    hr = read_header(pair.hr)
    if min(hr.size) // scale * scale < crop_size:
        raise ImageError(f"{pair.hr}: {hr.width} x {hr.height} pixels are too small for data.crop_size {crop_size}")
    if pair.lr is not None:
        check_sizes(pair, hr.size, read_header(pair.lr).size, scale)
    return hr.width * hr.height


def _refuse_too_many(bad: tuple[str, ...], total: int, max_bad_share: float) -> None:
    if len(bad) == total or len(bad) > max_bad_share * total:
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise HCFlowError(
            f"{len(bad)} of {total} training images are unusable, more than data.max_bad_share {max_bad_share:g} allows: "
            f"{'; '.join(bad[:_NAMED])}{more}"
        )


def _in_parallel(check: Callable[[Pair], None], pairs: Sequence[Pair], workers: int) -> Iterator[str | None]:
    """For each pair in order: None, or why its image is bad. Any other error ends everything at once."""

    def reason(pair: Pair) -> str | None:
        try:
            check(pair)
        except ImageError as error:
            return str(error)
        return None

    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        yield from pool.map(reason, pairs)
    finally:  # on an error or Ctrl-C, do not decode the rest first
        pool.shutdown(cancel_futures=True)


def _with_progress(results: Iterable, total: int, label: str, show: bool) -> Iterable:
    """Passes results on, with a progress bar on stderr if that is a terminal."""
    return tqdm(results, label, total, unit=" images", disable=None if show else True)
