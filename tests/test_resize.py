"""imresize against images made by MATLAB, against exact rational arithmetic, and its speed."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import hcflow_tf
from hcflow_tf.data.resize import imresize
from hcflow_tf.support.errors import HCFlowError


def random_image(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def exact_rows(image: np.ndarray, scale: Fraction) -> np.ndarray:
    """MATLAB's pass over the rows in rational arithmetic: the definition, written a second time."""

    def kernel(x: Fraction) -> Fraction:
        x = abs(x)
        if x <= 1:
            return (3 * x**3 - 5 * x**2 + 2) / 2
        return (-(x**3) + 5 * x**2 - 8 * x + 4) / 2 if x <= 2 else Fraction(0)

    shrink = min(scale, Fraction(1))
    rows = []
    for position in range(math.ceil(image.shape[0] * scale)):
        centre = (position + Fraction(1, 2)) / scale - Fraction(1, 2)
        reach = math.ceil(2 / shrink) + 1
        sources = range(math.floor(centre) - reach, math.floor(centre) + reach + 1)
        weights = [kernel(shrink * (centre - source)) for source in sources]
        total = sum(weights)
        row = np.zeros(image.shape[1:], object)
        for source, weight in zip(sources, weights, strict=True):
            while not 0 <= source < image.shape[0]:
                source = -1 - source if source < 0 else 2 * image.shape[0] - 1 - source
            row = row + image[source].astype(object) * (weight / total)
        rows.append(row)
    return np.stack(rows)


def exact_imresize(image: np.ndarray, scale: Fraction) -> np.ndarray:
    top = np.iinfo(image.dtype).max
    for _ in range(2):
        rounded = np.vectorize(lambda value: min(max(math.floor(value + Fraction(1, 2)), 0), top))(exact_rows(image, scale))
        image = rounded.astype(image.dtype).swapaxes(0, 1)
    return image


@pytest.mark.parametrize(("scale", "name"), [(4, "butterfly"), (8, "16"), (8, "110"), (8, "217")])
def test_every_pixel_is_matlabs(shared, scale, name):
    folder = shared / f"data/bicubic_pairs/x{scale}"
    hr, lr = (np.asarray(Image.open(folder / side / f"{name}.png")) for side in ("HR", "LR"))
    np.testing.assert_array_equal(imresize(hr, 1 / scale), lr)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", ["1/2", "1/3", "1/4", "1/8", "2", "3", "4", "3/5", "7/4"])
def test_equals_exact_arithmetic(scale, dtype):
    image = random_image(11, 14, dtype=dtype)
    expected = exact_imresize(image, Fraction(scale))
    assert expected.shape == (math.ceil(11 * Fraction(scale)), math.ceil(14 * Fraction(scale)))
    np.testing.assert_array_equal(imresize(image, float(Fraction(scale))), expected)


def test_exact_half_rounds_up_whatever_float64_makes_of_it():
    image = random_image(20, 20, seed=16) // 32 * 32  # an image in which one sum is x.5 exactly, and just below in float64
    np.testing.assert_array_equal(imresize(image, 7 / 4), exact_imresize(image, Fraction(7, 4)))


def test_float_is_neither_rounded_nor_clipped():
    image = random_image(13, 9).astype(np.float64) / 255
    expected = exact_rows(exact_rows(image, Fraction(1, 4)).swapaxes(0, 1), Fraction(1, 4)).swapaxes(0, 1).astype(float)
    np.testing.assert_allclose(imresize(image, 1 / 4), expected, rtol=0, atol=1e-13)
    single = imresize(image.astype(np.float32), 1 / 4)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-6)
    edge = np.repeat(np.array([0.0, 1.0]), 8)[None, :].repeat(4, 0)
    assert imresize(edge, 2).max() > 1.01


def test_channels_are_independent():
    image = random_image(12, 20, 4)
    result = imresize(image, 1 / 4)
    assert result.shape == (3, 5, 4)
    assert result.flags.c_contiguous
    for channel in range(4):
        np.testing.assert_array_equal(result[..., channel], imresize(image[..., channel], 1 / 4))


def test_scale_one_and_single_pixel():
    image = random_image(5, 6, 3)
    np.testing.assert_array_equal(imresize(image, 1), image)
    np.testing.assert_array_equal(imresize(image[:1, :1], 4), image[:1, :1].repeat(4, 0).repeat(4, 1))
    np.testing.assert_array_equal(imresize(np.full((3, 3), 77, np.uint8), 1 / 8), [[77]])


def test_strided_input_and_input_untouched():
    image = random_image(24, 24, 3)
    before = image.copy()
    np.testing.assert_array_equal(imresize(image[::2, ::-1], 1 / 4), imresize(image[::2, ::-1].copy(), 1 / 4))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "scale", "message"),
    [
        (np.zeros((2, 2, 3, 1), np.uint8), 0.5, "shape|expected a non-empty"),
        (np.zeros((0, 4), np.uint8), 0.5, "non-empty"),
        (np.zeros((4, 4), np.int32), 0.5, "int32"),
        (np.zeros((4, 4), np.uint8), 0, "scale must be above 0"),
        (np.zeros((4, 4), np.uint8), float("nan"), "scale must be above 0"),
    ],
)
def test_bad_input_is_named(image, scale, message):
    with pytest.raises(HCFlowError, match=message):
        imresize(image, scale)


def test_a_2k_image_takes_well_under_half_a_second():
    image = random_image(1356, 2040, 3)

    def seconds(function) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return min(times)

    # The yardstick of the same run: every pixel is used by 4 output rows, so 4 conversions and sums of the image are
    # the least that the first pass has to do. On a slow or busy machine the ratio decides.
    yardstick = seconds(lambda: [image.astype(np.float64).sum() for _ in range(4)])
    taken = seconds(lambda: imresize(image, 1 / 4))
    assert taken < 0.45 or taken < 4 * yardstick


def test_public_name():
    assert hcflow_tf.imresize is imresize
