"""Pictures of all kinds against the values that other readers and the formats' rules give: the table of expected and got."""

from __future__ import annotations

import io
import json
import pathlib
import random

import numpy as np
import pytest
import tensorflow as tf
from fuzz.bases import new_formats
from fuzz.mutations import mutants
from PIL import Image, ImageCms

from hcflow_tf.images.images import ImageError, LoadedImage, read_header, read_image
from hcflow_tf.inference.pictures import downscale_file, upscale_file
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.runtimes import picture_bytes
from hcflow_tf.runtimes.open import open_runtime

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@pytest.fixture(scope="module")
def folder(shared) -> pathlib.Path:
    if not (shared / "fixtures/photographs/expected.json").is_file():
        pytest.skip(f"no pictures in {shared}/fixtures/photographs")
    return shared / "fixtures/photographs"


@pytest.fixture(scope="module")
def files(folder) -> dict[str, dict]:
    return json.loads((folder / "expected.json").read_text())["files"]


def values(rows: list[str], channels: int) -> np.ndarray:
    return np.array([list(bytes.fromhex(row)) for row in rows], np.uint8).reshape(len(rows), -1, channels)


def as_seen(image: LoadedImage, expected: dict) -> tuple[np.ndarray, np.ndarray | None]:
    """8-bit colours, by the profile that goes with them, and alpha."""
    rgb, alpha = image.rgb_uint8, image.alpha
    if expected.get("as_seen") and image.icc_profile:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.icc_profile))
        rgb = np.asarray(ImageCms.profileToProfile(Image.fromarray(rgb), profile, SRGB, renderingIntent=1))
    if alpha is not None and alpha.dtype == np.uint16:
        alpha = ((alpha.astype(int) + 128) // 257).astype(np.uint8)
    return rgb, alpha


def difference(image: LoadedImage, expected: dict) -> str | None:
    """What differs from the expected pixels."""
    rgb, alpha = as_seen(image, expected)
    if "size" in expected and list(rgb.shape[1::-1]) != expected["size"]:
        return f"size {rgb.shape[1::-1]}, expected {expected['size']}"
    want = np.repeat(values(expected["gray"], 1), 3, 2) if "gray" in expected else values(expected["rgb"], 3)
    want_alpha = values(expected["alpha"], 1)[..., 0] if expected.get("alpha") else None
    if (alpha is None) != (want_alpha is None):
        return "alpha where there is none" if want_alpha is None else "alpha is lost"
    distance, tolerance = np.abs(rgb.astype(int) - want), expected.get("tolerance", 0)
    if want_alpha is not None:
        distance = distance[want_alpha > 0]
        if np.abs(alpha.astype(int) - want_alpha).max() > tolerance:
            return f"alpha off by {np.abs(alpha.astype(int) - want_alpha).max()}"
    if distance.size and distance.max() > tolerance:
        return f"colours off by {distance.max()} (tolerance {tolerance})"
    return None


def mentions(words: list[str], text: str) -> bool:
    return any(word.casefold() in text.casefold() for word in words)


def fault(path: pathlib.Path, name: str, expected: dict) -> str | None:
    """What is wrong with the answer to one file, given all that count as right."""
    try:
        image, said = read_image(path), None
    except ImageError as error:
        image, said = None, str(error).replace(str(path), "")
        if "\n" in said:
            return f"several lines: {said}"
    accepted = expected.get("accept", [])
    if image is None:
        words = [*expected.get("says_any", []), *(word for other in accepted for word in other.get("refuse", []))]
        return None if mentions(words, said) else f"refused: {said}"
    notes = "\n".join(image.notes)
    if read_header(path).size != image.rgb.shape[1::-1]:
        return "the header says another size"
    if expected.get("upscaled") and image.is_gray != (expected["upscaled"] == "gray"):
        return f"is_gray is {image.is_gray}"
    if expected["expect"] == "warn":
        return None if mentions(expected["says_any"], notes) else f"no warning, but {notes!r}"
    if expected["expect"] == "read":
        if not mentions(expected.get("warns", [""]), notes) and not any("no_warning" in other for other in accepted):
            return f"no note of other pictures, but {notes!r}"
        if not difference(image, expected):
            return None
    for other in accepted:
        if "any_pixels" in other or ("warn" in other and mentions(other["warn"], notes)):
            return None
        plain = {key: value for key, value in expected.items() if not (key in ("rgb", "gray") and {"rgb", "gray"} & set(other))}
        if {"rgb", "gray", "alpha"} & set(other) and not difference(image, plain | other):
            return None
    return "read, though it is not to be" if expected["expect"] == "refuse" else difference(image, expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_every_picture_is_read_as_others_read_it_or_refused_by_name(folder, files):
    checked = {name: expected for name, expected in files.items() if expected["expect"] != "visible colour"}
    assert len(checked) > 350
    faults = {name: fault(folder / name, name, expected) for name, expected in checked.items()}
    assert {name: why for name, why in faults.items() if why} == {}


def test_a_served_graph_reads_a_file_as_the_command_does_or_refuses_it(folder, files):
    read, refused = 0, {}
    for name in files:
        data = (folder / name).read_bytes()
        if not data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or name.startswith("damaged/"):
            continue
        try:
            picture_bytes.stated_size(tf.constant(data))
            pixels = picture_bytes.decode(tf.constant(data)).numpy()
        except tf.errors.InvalidArgumentError as error:
            refused[name] = str(error)
            continue
        image = read_image(folder / name)
        assert image.alpha is None or (image.alpha == image.alpha.max()).all(), name
        assert image.icc_profile is None or b"sRGB" in image.icc_profile or b"s\0R\0G\0B" in image.icc_profile, name
        assert pixels.shape == image.rgb.shape, name
        assert np.abs(pixels.astype(int) - image.rgb_uint8).max() <= 1, name
        read += 1
    assert read > 60
    for name, why in (
        ("orientation/jpeg_6.jpg", "EXIF orientation"),
        ("orientation/jpeg_big_endian_6.jpg", "EXIF orientation"),
        ("orientation/png_6_after_pixels.png", "EXIF orientation"),
        ("png/rgba8.png", "transparency"),
        ("png/palette4_transparent.png", "transparency"),
        ("colour/iccp_p3.jpg", "colour profile"),
        ("colour/iccp_adobe.png", "colour profile"),
        ("colour/gama_100.png", "colour profile"),
        ("colour/gray_icc_220.png", "colour profile"),
        ("jpeg/cmyk_adobe_inverted.jpg", "colour profile"),
    ):
        assert why in refused[name]


@pytest.mark.parametrize("model", ["bicubic", "sr-x4-compact", "rescale-x4-compact-3"])
def test_hidden_colours_stay_hidden_and_gray_stays_gray(folder, files, model, tmp_path):
    scaler = Scaler(open_runtime(model))
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    seen = 0
    for name, expected in files.items():
        if expected["expect"] != "visible colour" and expected.get("upscaled") != "gray":
            continue
        if model.startswith("rescale"):
            downscale_file(scaler, folder / name, small)
        upscale_file(scaler, small if model.startswith("rescale") else folder / name, [large])
        for path in (small, large) if model.startswith("rescale") else (large,):
            rgba = np.asarray(Image.open(path).convert("RGBA")).astype(float)
            visible = rgba[rgba[..., 3] > 0]
            assert len(visible)
            if expected["expect"] == "visible colour":
                off = np.abs(visible[:, :3] - expected["colour"]).max(axis=1) * visible[:, 3] / 255
                assert off.max() <= expected["within"], (name, path.name)
            elif path == large:  # the LR image of a gray picture may be tinted: tests/test_shipped.py
                assert np.ptp(visible[:, :3], axis=1).max() <= 1, (name, path.name)
        seen += 1
    assert seen > 20


def test_mutated_files_of_the_new_formats_are_read_or_refused_in_one_line(tmp_path):
    """500 files; what the decoders behind Pillow and tifffile say of damage is never a traceback."""
    path, counts = tmp_path / "x", {"read": 0, "refused": 0}
    for name, content in mutants(new_formats(), 500, random.Random(12)).items():
        path.write_bytes(content)
        try:
            image = read_image(path)
        except ImageError as error:
            assert "\n" not in str(error), name
            assert str(path) in str(error), name
            counts["refused"] += 1
        else:
            assert image.rgb.ndim == 3, name
            counts["read"] += 1
    assert min(counts.values()) > 50
