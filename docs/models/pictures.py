"""The pictures of the model cards, from photographs that scikit-image ships and no shipped model was trained on.

    python docs/models/pictures.py

For each shipped model, NAME.png (photographs, by `hcflow compare`) and NAME-limits.png: JPEG noise, text and a face; the
model for faces shows a face, cut as those of its training, and in NAME-samples.png eight samples of it.
"""

from __future__ import annotations

import importlib.util
import io
import pathlib
import tempfile

import numpy as np
from PIL import Image

from hcflow_tf import imresize, list_models
from hcflow_tf.images.images import quantize
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.support import cli

HERE = pathlib.Path(__file__).parent


def hard_cases(folder: pathlib.Path) -> None:
    """Writes a photograph after JPEG compression, a page of text, and a face."""
    photographs = pathlib.Path(importlib.util.find_spec("skimage").origin).parent / "data"
    with Image.open(photographs / "coffee.png") as coffee:
        jpeg = io.BytesIO()
        coffee.convert("RGB").save(jpeg, "JPEG", quality=25)
    with Image.open(jpeg) as noisy:
        noisy.save(folder / "1-jpeg-quality-25.png")
    with Image.open(photographs / "page.png") as page:
        page.convert("RGB").crop((0, 0, 384, 188)).save(folder / "2-text.png")
    with Image.open(photographs / "astronaut.png") as astronaut:
        face = np.asarray(astronaut.convert("RGB"))[0:224, 112:336]
        Image.fromarray(face).save(folder / "3-face.png")


def face(folder: pathlib.Path) -> None:
    """Writes a face of 160 x 160 as those of CelebA are cut."""
    photographs = pathlib.Path(importlib.util.find_spec("skimage").origin).parent / "data"
    folder.mkdir()
    with Image.open(photographs / "astronaut.png") as astronaut:
        astronaut.convert("RGB").crop((140, 10, 308, 178)).resize((160, 160), Image.Resampling.LANCZOS).save(folder / "face.png")


def samples(lr: np.ndarray, model: str, path: pathlib.Path, *, count: int = 8, temperature: float = 0.8) -> None:
    """Writes the LR image, enlarged, and beside it samples of it in two rows."""
    scaler = Scaler(open_runtime(model))
    drawn = [quantize(scaler.upscale(lr / np.float32(255), temperature, seed)) for seed in range(count)]
    side = drawn[0].shape[0]
    sheet = Image.new("RGB", ((2 + count // 2) * side, 2 * side))
    sheet.paste(Image.fromarray(lr).resize((2 * side, 2 * side), Image.Resampling.NEAREST))
    for number, image in enumerate(drawn):
        row, column = divmod(number, count // 2)
        sheet.paste(Image.fromarray(image), ((2 + column) * side, row * side))
    sheet.save(path)


def main() -> None:
    """Writes all pictures."""
    with tempfile.TemporaryDirectory() as name:
        hard, faces = pathlib.Path(name), pathlib.Path(name) / "faces"
        hard_cases(hard)
        face(faces)
        with Image.open(faces / "face.png") as image:
            samples(imresize(np.asarray(image), 1 / 8), "face-x8-compact", HERE / "face-x8-compact-samples.png")
        for model in list_models():
            of_faces = ["--hr", str(faces)] if model.startswith("face") else []
            cli.execute("compare", ["--model", model, *of_faces, "-o", str(HERE / f"{model}.png"), "--overwrite"])
            cli.execute("compare", ["--model", model, "--hr", str(hard), "-o", str(HERE / f"{model}-limits.png"), "--overwrite"])


if __name__ == "__main__":
    main()
