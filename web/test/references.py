"""Pictures and what Python makes of them, for the page's tests.

python web/test/references.py FOLDER
"""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import tensorflow as tf
from PIL import Image

from hcflow_tf.data.samples import held_out_photographs
from hcflow_tf.images.images import read_image
from hcflow_tf.models.latents import draw_latents
from hcflow_tf.support import cli

SIZE = (72, 56)
"""Width and height of the small pictures."""

SEEDS = (0, 1, -5, 2**40 + 7, 2**63 - 1)


def hcflow(*arguments: object) -> None:
    """Runs the command in this process."""
    if code := cli.main([str(argument) for argument in arguments]):
        raise SystemExit(code)


def pictures(folder: pathlib.Path) -> None:
    """The inputs: colour, gray, transparent, 16 bit, turned, one to be shrunk, a broken and an empty one, a large one."""
    photograph = Image.fromarray(read_image(held_out_photographs()[0]).rgb_uint8)
    small = photograph.resize(SIZE, Image.Resampling.BICUBIC)
    small.save(folder / "colour.png")
    small.convert("L").save(folder / "gray.png")
    small.quantize(64).save(folder / "palette.png")
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, SIZE[0], dtype=np.uint8), (SIZE[1], 1)))
    hole = np.asarray(ramp).copy()
    hole[20:27, 30:41] = 0
    small.putalpha(Image.fromarray(hole))
    small.save(folder / "transparent.png")
    small.convert("RGB").crop((20, 16, 44, 36)).save(folder / "tiny.png")
    wide = np.asarray(small.convert("L")).astype(np.uint16) * 257 + 11
    Image.fromarray(wide).save(folder / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    small.convert("RGB").save(folder / "turned.png", exif=exif)
    small.convert("RGB").save(folder / "turned.jpg", exif=exif, quality=95, subsampling=0)
    photograph.crop((0, 0, 202, 155)).save(folder / "original.png")
    (folder / "broken.png").write_bytes((folder / "colour.png").read_bytes()[:3000])
    (folder / "broken.jpg").write_bytes(b"no picture at all")
    (folder / "empty.png").write_bytes(b"")
    tiled = np.tile(np.asarray(photograph), (-(-512 // photograph.height), -(-512 // photograph.width), 1))[:512, :512]
    Image.fromarray(tiled).save(folder / "large.png")
    Image.fromarray(tiled[:64, :110]).save(folder / "tiles.png")


def main(folder: pathlib.Path) -> None:
    """Writes everything into the folder."""
    pictures(folder)
    names = ("colour", "gray", "palette", "transparent", "sixteen", "turned", "tiny")
    hcflow("upscale", *(folder / f"{name}.png" for name in names), "-o", folder / "upscaled")
    sampling = ("--temperature", "0.8", "--seed", "7")
    hcflow("upscale", folder / "colour.png", "-o", folder / "samples", *sampling, "--samples", "2", "--uncertainty")
    hcflow("downscale", folder / "original.png", "-o", folder / "small.png")
    hcflow("upscale", folder / "small.png", "-o", folder / "restored.png")
    shapes = [[20, 24, 6], [10, 11, 3]]
    latents = []
    for seed in SEEDS:
        for level, z in enumerate(draw_latents(tf.constant([seed], tf.int64), 0.8, shapes), start=1):
            latents.append({"seed": str(seed), "level": level, "values": z.numpy().ravel().tolist()})
    (folder / "latents.json").write_text(json.dumps(latents))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
