"""Generated graphics for training: what photographs lack, text, interfaces, charts, pixel art, line art, flat colours.

Everything is drawn from a seed with numpy and Pillow, in letters that come with Pillow (stretched, slanted and thickened,
since evaluation sets use them upright); nothing is read from the machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hcflow_tf.data.resize import imresize

Colour = tuple[int, int, int]

POOL = 240
"""Pictures of a run: drawn once, some seconds and 28 MB at the usual size, then cropped again and again."""

SIDE = 192
"""HR pixels of a picture's side, where the crops are not larger."""

_LETTERS = "aaabcdeeeefghiiijklmnnooopqrrssstttuuvwxyzABCDEFGHIKLMNOPRSTW0123456789.,:;!?()[]{}<>+-=*/%&@#$"


class Graphics:
    """A pool of generated pictures with their bicubic LR images; picture i of a seed is always the same.

    Args:
      seed: of the run.
      crop_size: HR pixels that must fit into a picture.
      scale: of the LR images.
      count: pictures to draw.
    """

    def __init__(self, seed: int, crop_size: int, scale: int, count: int = POOL):
        side = -(-max(SIDE, crop_size) // scale) * scale
        self._pairs = []
        for index in range(count):
            hr = draw(np.random.default_rng((seed, index)), side, KINDS[index % len(KINDS)])
            self._pairs.append((hr, imresize(hr, 1 / scale)))

    def __len__(self) -> int:
        return len(self._pairs)

    def get(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """HR [side, side, 3] and LR, uint8, of picture `index`."""
        return self._pairs[index]


def draw(rng: np.random.Generator, side: int, kind: Callable[[np.random.Generator, int], np.ndarray]) -> np.ndarray:
    """A picture [side, side, 3], uint8, of one of `KINDS`, turned by a random number of quarters unless it has letters."""
    picture = kind(rng, side)
    return np.ascontiguousarray(picture if kind in _UPRIGHT else np.rot90(picture, int(rng.integers(4))))


def _colour(rng: np.random.Generator) -> Colour:
    """A corner or an edge of the colour cube, a gray, or any colour: saturated ones are as likely as all others."""
    any_colour = rng.integers(0, 256, 3)
    choice = rng.integers(4)
    if choice < 2:
        corner = 255 * rng.integers(0, 2, 3)
        if choice:
            corner[rng.integers(3)] = any_colour[0]
        any_colour = corner
    elif choice == 2:
        any_colour[:] = any_colour[0]
    red, green, blue = (int(value) for value in any_colour)
    return red, green, blue


def _two_colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Two that differ: often black and white."""
    if rng.random() < 0.3:
        pair = [(0, 0, 0), (255, 255, 255)]
        return (pair[0], pair[1]) if rng.random() < 0.5 else (pair[1], pair[0])
    first = second = _colour(rng)
    while sum(abs(a - b) for a, b in zip(first, second, strict=True)) < 100:
        second = _colour(rng)
    return first, second


def _canvas(side: int, colour: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (side, side), colour)
    return image, ImageDraw.Draw(image)


def _write(image: Image.Image, rng: np.random.Generator, place: tuple[int, int], text: str, size: int, colour: Colour) -> None:
    """Writes a line in a face of its own: Pillow's old bitmap letters, or its outlines stretched, slanted, thickened."""
    stretch: float
    if rng.random() < 0.25:
        font, stretch, slant, stroke = _face(0), max(1, round(size / 11)), 0.0, 0
        tall, resample = stretch, Image.Resampling.NEAREST
    else:
        font, stretch, slant = _face(size), rng.uniform(0.7, 1.5), rng.uniform(-0.35, 0.35)
        tall, stroke, resample = 1, int(rng.integers(0, 1 + max(1, size // 14))), Image.Resampling.BICUBIC
    left, _, right, bottom = font.getbbox(text)
    width, height = int(right - left) + 2 * stroke + 2, int(bottom) + 2 * stroke + 2
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text((stroke + 1 - left, stroke), text, fill=255, font=font, stroke_width=stroke)
    margin = round(abs(slant) * height)
    wide = max(1, min(2 * image.width, round((width + margin) * stretch)))
    map_back = (1 / stretch, slant / tall, -margin if slant > 0 else 0, 0, 1 / tall, 0)
    mask = mask.transform((wide, height * tall), Image.Transform.AFFINE, map_back, resample)
    image.paste(colour, place, mask)


@functools.lru_cache(maxsize=64)
def _face(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own outlines at this size; 0: its bitmap letters."""
    return ImageFont.load_default(size) if size else ImageFont.load_default_imagefont()


def _words(rng: np.random.Generator, letters: int) -> str:
    """Random letters in words of 1 to 9."""
    text = ""
    while len(text) < letters:
        text += "".join(_LETTERS[i] for i in rng.integers(0, len(_LETTERS), rng.integers(1, 10))) + " "
    return text[:letters].strip() or "x"


def text(rng: np.random.Generator, side: int) -> np.ndarray:
    """Lines of letters of many sizes, in one or in many colours."""
    ink, paper = _two_colours(rng)
    image, _ = _canvas(side, paper)
    coloured, y = rng.random() < 0.4, int(rng.integers(-4, 8))
    base = int(rng.integers(8, 26))
    while y < side:
        size = base if rng.random() < 0.6 else int(rng.integers(7, 34))
        _write(image, rng, (int(rng.integers(-8, 20)), y), _words(rng, 2 * side // size), size, _colour(rng) if coloured else ink)
        y += round(size * rng.uniform(1.1, 1.7))
    return np.asarray(image)


def interface(rng: np.random.Generator, side: int) -> np.ndarray:
    """A window of bars, rows, fields, tick boxes and round buttons on a grid, with thin borders and labels."""
    image, pen = _canvas(side, _colour(rng) if rng.random() < 0.4 else (int(rng.integers(225, 256)),) * 3)
    line = _colour(rng)
    rows, y = int(rng.integers(14, 40)), 0
    while y < side:
        x = int(rng.integers(0, 10))
        while x < side:
            wide, kind = int(rng.integers(12, 80)), rng.integers(6)
            box = (x, y + 2, x + wide, y + rows - 3)
            if kind == 0:
                pen.rectangle(box, fill=_colour(rng), outline=line)
            elif kind == 1:
                pen.rounded_rectangle(box, rows // 3, fill=_colour(rng), outline=_colour(rng), width=int(rng.integers(1, 3)))
            elif kind == 2:
                pen.ellipse((x, y + 2, x + rows - 5, y + rows - 3), fill=_colour(rng), outline=line)
            elif kind == 3:
                pen.rectangle((x, y + 4, x + 9, y + 13), outline=line)
                pen.line([(x + 2, y + 8), (x + 4, y + 11), (x + 8, y + 5)], fill=_colour(rng))
            if kind != 2:
                _write(image, rng, (x + 3, y + 3), _words(rng, max(1, wide // 9)), int(rng.integers(8, 15)), _colour(rng))
            x += wide + int(rng.integers(2, 16))
        if rng.random() < 0.5:
            pen.line([(0, y), (side, y)], fill=line)
        y += rows
    return np.asarray(image)


def chart(rng: np.random.Generator, side: int) -> np.ndarray:
    """A grid under points, areas, horizontal bars, steps or the slices of a pie."""
    image, pen = _canvas(side, (255, 255, 255) if rng.random() < 0.6 else _colour(rng))
    step, grid = int(rng.integers(9, 40)), _colour(rng)
    for place in range(int(rng.integers(step)), side, step):
        pen.line([(place, 0), (place, side)], fill=grid)
        pen.line([(0, place), (side, place)], fill=grid)
    for _ in range(int(rng.integers(1, 4))):
        kind, colour = rng.integers(5), _colour(rng)
        if kind == 0:
            for x, y in rng.integers(0, side, (30, 2)).tolist():
                pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        elif kind == 1:
            heights = rng.integers(0, side, 8).tolist()
            points = [(round(i * side / 7), h) for i, h in enumerate(heights)]
            pen.polygon([(0, side), *points, (side, side)], fill=colour, outline=_colour(rng))
        elif kind == 2:
            for y in range(int(rng.integers(8)), side, int(rng.integers(8, 24))):
                pen.rectangle((0, y, int(rng.integers(4, side)), y + 5), fill=colour)
        elif kind == 3:
            values = np.repeat(rng.integers(0, side, 16), 2).tolist()
            pen.line([((i + 1) // 2 * 12, v) for i, v in enumerate(values)], fill=colour, width=int(rng.integers(1, 4)))
        else:
            x, y, radius = (int(v) for v in rng.integers(20, side - 20, 3))
            for start in range(0, 360, int(rng.integers(30, 91))):
                pen.pieslice((x - radius, y - radius, x + radius, y + radius), start, start + 90, _colour(rng), _colour(rng))
    _write(image, rng, (4, 2), _words(rng, 12), int(rng.integers(8, 18)), _colour(rng))
    return np.asarray(image)


def pixel_art(rng: np.random.Generator, side: int) -> np.ndarray:
    """Large pixels of a few colours: noise, runs or blobs, some mirrored, at any phase against the LR grid."""
    block = int(rng.integers(2, 13))
    cells = side // block + 2
    palette = np.array([_colour(rng) for _ in range(rng.integers(2, 9))], np.uint8)
    field = rng.random((cells, cells))
    for _ in range(int(rng.integers(0, 3))):
        field = (field + np.roll(field, 1, 0) + np.roll(field, 1, 1) + np.roll(field, -1, 0) + np.roll(field, -1, 1)) / 5
    order = np.argsort(np.argsort(field, axis=None)).reshape(field.shape)
    indices = order * len(palette) // field.size
    if rng.random() < 0.3:
        indices = np.concatenate([indices[:, : cells // 2], indices[:, cells // 2 - 1 :: -1]], axis=1)
    picture = palette[indices].repeat(block, axis=0).repeat(block, axis=1)
    top, left = rng.integers(0, block, 2)
    picture = picture[top : top + side, left : left + side]
    missing = [(0, side - length) for length in picture.shape[:2]]
    return np.pad(picture, [*missing, (0, 0)], mode="edge")


def line_art(rng: np.random.Generator, side: int) -> np.ndarray:
    """Polylines, polygons and rays of thin lines, with smooth edges or without, and hatching."""
    ink, paper = _two_colours(rng)
    fine = int(rng.integers(1, 3))
    image, pen = _canvas(side * fine, paper)
    for _ in range(int(rng.integers(3, 14))):
        points = [tuple(point) for point in rng.integers(0, side * fine, (rng.integers(2, 6), 2)).tolist()]
        width = fine * int(rng.integers(1, 4))
        colour = ink if rng.random() < 0.7 else _colour(rng)
        kind = rng.integers(4)
        if kind == 0:
            pen.polygon(points, outline=colour)
        elif kind == 1:
            for end in rng.integers(0, side * fine, (7, 2)).tolist():
                pen.line([points[0], tuple(end)], fill=colour, width=width)
        elif kind == 2:
            gap = fine * int(rng.integers(2, 9))
            for offset in range(0, 60 * fine, gap):
                (x, y), (u, v) = points[0], points[1]
                pen.line([(x + offset, y), (u + offset, v)], fill=colour, width=fine)
        else:
            pen.line(points, fill=colour, width=width, joint="curve")
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


def flat(rng: np.random.Generator, side: int) -> np.ndarray:
    """One colour, or stripes, frames and triangles of few: wide flat regions with straight edges."""
    image, pen = _canvas(side, _colour(rng))
    kind = rng.integers(5)
    if kind == 1:
        edge = int(rng.integers(1, 40))
        for _ in range(int(rng.integers(1, 4))):
            pen.rectangle((edge, edge, side - 1 - edge, side - 1 - edge), fill=_colour(rng))
            edge += int(rng.integers(1, 40))
            if 2 * edge >= side:
                break
    elif kind == 2:
        place = 0
        while place < side:
            wide = int(rng.integers(1, 60))
            pen.rectangle((place, 0, place + wide - 1, side), fill=_colour(rng))
            place += wide
    elif kind == 3:
        for _ in range(int(rng.integers(1, 7))):
            pen.polygon([tuple(point) for point in rng.integers(0, side, (3, 2)).tolist()], fill=_colour(rng))
    return np.asarray(image)


def gradient(rng: np.random.Generator, side: int) -> np.ndarray:
    """A linear or a round change between two colours, in many steps or in few."""
    u, v = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    angle = rng.uniform(0, 2 * np.pi)
    amount = u * np.cos(angle) + v * np.sin(angle) if rng.random() < 0.6 else np.hypot(u - rng.uniform(-1, 1), v)
    amount = (amount - amount.min()) / np.ptp(amount)
    if rng.random() < 0.3:
        steps = int(rng.integers(3, 20))
        amount = np.round(amount * steps) / steps
    first, second = (np.array(colour, float) for colour in _two_colours(rng))
    return np.rint(first + amount[..., None] * (second - first)).astype(np.uint8)


def pattern(rng: np.random.Generator, side: int) -> np.ndarray:
    """Checkerboards, stripes, ordered and diffused dither in two colours."""
    colours = np.array(_two_colours(rng), np.uint8)
    y, x = np.mgrid[:side, :side]
    kind, size = rng.integers(4), int(rng.integers(1, 7))
    if kind == 0:
        bits = (x // size + y // size) % 2
    elif kind == 1:
        bits = (x + int(rng.integers(-2, 3)) * y) // size % 2
    else:
        smooth = gradient(rng, side).mean(axis=-1)
        if kind == 2:
            low = np.array([[0, 2], [3, 1]])
            bayer = np.block([[4 * low, 4 * low + 2], [4 * low + 3, 4 * low + 1]])
            bits = (smooth > (bayer[y % 4, x % 4] + 0.5) * 16).astype(int)
        else:
            bits = np.asarray(Image.fromarray(smooth.astype(np.uint8)).convert("1")).astype(int)
    return colours[bits]


def grain(rng: np.random.Generator, side: int) -> np.ndarray:
    """Noise over one of the others: of single pixels or of grains as large as LR pixels, gray or coloured, faint or strong."""
    picture = _PLAIN[rng.integers(len(_PLAIN))](rng, side).astype(np.float64)
    size, bands = (1, 2, 4, 4, 5, 8)[rng.integers(6)], 1 if rng.random() < 0.4 else 3
    count = -(-side // size)
    noise = rng.standard_normal((count, count, bands)) * 3 * 20 ** rng.random()
    smooth = Image.Resampling.BICUBIC if rng.random() < 0.5 else Image.Resampling.NEAREST
    layers = [Image.fromarray(band.astype(np.float32)).resize((count * size,) * 2, smooth) for band in np.moveaxis(noise, -1, 0)]
    grains = np.stack([np.asarray(layer)[:side, :side] for layer in layers], axis=-1)
    return np.rint(np.clip(picture + grains, 0, 255)).astype(np.uint8)


KINDS = (text, interface, chart, pixel_art, line_art, flat, gradient, pattern, text, flat, grain, grain)
"""What a pool consists of, in turn: text, flat colours and noise twice."""

_PLAIN = (flat, gradient, gradient, line_art, text, pattern)

_UPRIGHT = (text, interface, chart)
