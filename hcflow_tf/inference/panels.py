"""Pictures that show results side by side, a label under each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CROP = 224
"""Side of the shown part of each image, HR pixels."""
MARGIN, LABEL_HEIGHT, FONT_SIZE = 6, 22, 15


def centre(image: np.ndarray) -> np.ndarray:
    """The middle of image [height, width, ...], at most `CROP` pixels high and wide."""
    top, left = (max(0, (side - CROP) // 2) for side in image.shape[:2])
    return image[top : top + CROP, left : left + CROP]


def picture(panels: Sequence[Sequence[tuple[str, np.ndarray]]]) -> np.ndarray:
    """One row per image of labelled panels [height, width, 3] uint8, each at most `CROP` pixels high and wide."""
    cell = (CROP + MARGIN, CROP + LABEL_HEIGHT + MARGIN)
    canvas = Image.new("RGB", (cell[0] * len(panels[0]) + MARGIN, cell[1] * len(panels) + MARGIN), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    for row, images in enumerate(panels):
        for column, (label, image) in enumerate(images):
            corner = (MARGIN + column * cell[0], MARGIN + row * cell[1])
            canvas.paste(Image.fromarray(image), corner)
            draw.text((corner[0] + 2, corner[1] + CROP + 2), label, fill="black", font=font)
    return np.asarray(canvas)
