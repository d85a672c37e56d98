"""Reading and writing of every kind of image file, bad files, and pairing of folders."""

from __future__ import annotations

import lzma
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from fuzz.bases import chunk, picture, png, valid
from fuzz.formats import many_scans, tiff_with_strip
from imagecodecs import zstd_encode
from PIL import Image, ImageCms, ImageOps

from hcflow_tf.data import pairs
from hcflow_tf.images import images
from hcflow_tf.images.images import ImageError, read_header, read_image, write_image
from hcflow_tf.support.errors import HCFlowError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXTENSIONS = [".png", ".jpg", ".webp", ".bmp", ".tif"]


def pixels(height: int = 12, width: int = 20, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """Smooth, so that JPEG keeps it within a few steps, with no symmetry."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.cos(2 * x + 3 * y * (c + 1)) + x - 0.3 * c for c in range(channels)]
    image = np.stack(waves, axis=2)
    return ((image - image.min()) / np.ptp(image) * np.iinfo(dtype).max).round().astype(dtype)


# ---- formats


@pytest.mark.parametrize("suffix", EXTENSIONS)
def test_rgb_of_every_format(tmp_path, suffix):
    rgb = pixels()
    write_image(tmp_path / f"a{suffix}", rgb)
    loaded = read_image(tmp_path / f"a{suffix}")
    assert (loaded.bit_depth, loaded.alpha, loaded.icc_profile, loaded.rgb.dtype) == (8, None, None, np.uint8)
    worst = np.abs(loaded.rgb.astype(int) - rgb).max()
    assert worst <= (6 if suffix == ".jpg" else 0)
    header = read_header(tmp_path / f"a{suffix}")
    assert (header.width, header.height) == (20, 12)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_and_profile_are_kept(tmp_path, suffix, dtype):
    if suffix == ".webp" and dtype == np.uint16:
        pytest.skip("WebP is 8 bit")
    rgba = pixels(channels=4, dtype=dtype)
    write_image(tmp_path / f"a{suffix}", rgba[..., :3], alpha=rgba[..., 3], icc_profile=SRGB)
    loaded = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.dstack([loaded.rgb, loaded.alpha]), rgba)
    assert loaded.rgb.dtype == loaded.alpha.dtype == dtype
    assert loaded.icc_profile == SRGB


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colour_keeps_every_bit(tmp_path, suffix):
    rgb = pixels(dtype=np.uint16)
    assert (rgb % 257).any()
    write_image(tmp_path / f"a{suffix}", rgb, icc_profile=SRGB)
    loaded = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(loaded.rgb, rgb)
    assert (loaded.bit_depth, loaded.icc_profile) == (16, SRGB)
    np.testing.assert_array_equal(loaded.rgb_uint8, np.floor(rgb / 257 + 0.5))


def test_jpeg_keeps_the_profile(tmp_path):
    write_image(tmp_path / "a.jpg", pixels(), icc_profile=SRGB)
    assert read_image(tmp_path / "a.jpg").icc_profile == SRGB


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_text(tmp_path, dtype):
    text = {"hcflow original size": "640x427", "name": "Ähre ☃"}
    write_image(tmp_path / "a.png", pixels(dtype=dtype), text=text)
    assert read_image(tmp_path / "a.png").text == text


def test_gray_and_gray_with_alpha(tmp_path):
    gray, alpha = pixels()[..., 0], pixels()[..., 1]
    Image.fromarray(gray).save(tmp_path / "l.png", icc_profile=b"\0" * 16 + b"GRAY" + b"\0" * 108)
    Image.fromarray(np.dstack([gray, alpha]), "LA").save(tmp_path / "la.png")
    plain, with_alpha = read_image(tmp_path / "l.png"), read_image(tmp_path / "la.png")
    for loaded in (plain, with_alpha):
        np.testing.assert_array_equal(loaded.rgb, gray[..., None].repeat(3, 2))
    assert (plain.mode, plain.alpha, plain.icc_profile) == ("L", None, None)
    np.testing.assert_array_equal(with_alpha.alpha, alpha)


def test_black_and_white(tmp_path):
    bits = pixels()[..., 0] > 128
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb[..., 1], bits * 255)


def test_palette_with_and_without_transparency(tmp_path):
    palette_image = Image.fromarray(pixels()).quantize(16)
    expected = np.asarray(palette_image.convert("RGB"))
    index = np.asarray(palette_image)
    palette_image.save(tmp_path / "p.png")
    palette_image.save(tmp_path / "one.png", transparency=3)
    palette_image.save(tmp_path / "many.png", transparency=bytes(range(0, 160, 10)))
    for name in ("p", "one", "many"):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png").rgb, expected)
    assert read_image(tmp_path / "p.png").alpha is None
    np.testing.assert_array_equal(read_image(tmp_path / "one.png").alpha, np.where(index == 3, 0, 255))
    np.testing.assert_array_equal(read_image(tmp_path / "many.png").alpha, index * 10)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_gray(tmp_path, suffix):
    gray = pixels(dtype=np.uint16)[..., 0]
    Image.fromarray(gray).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").rgb, gray[..., None].repeat(3, 2))


def test_16_bit_gray_with_alpha_and_colour_keys(tmp_path):
    import tensorflow as tf

    la = pixels(channels=2, dtype=np.uint16)
    (tmp_path / "la.png").write_bytes(tf.io.encode_png(la).numpy())
    loaded = read_image(tmp_path / "la.png")
    np.testing.assert_array_equal(loaded.rgb, la[..., :1].repeat(3, 2))
    np.testing.assert_array_equal(loaded.alpha, la[..., 1])
    for channels in (1, 3):
        image = pixels(channels=channels, dtype=np.uint16)
        key = struct.pack(f">{channels}H", *image[2, 3])
        chunk = struct.pack(">I", len(key)) + b"tRNS" + key + struct.pack(">I", zlib.crc32(b"tRNS" + key))
        encoded = tf.io.encode_png(image).numpy()
        (tmp_path / "key.png").write_bytes(encoded[:33] + chunk + encoded[33:])
        loaded = read_image(tmp_path / "key.png")
        np.testing.assert_array_equal(loaded.rgb, image if channels == 3 else image.repeat(3, 2))
        np.testing.assert_array_equal(loaded.alpha, np.where((image == image[2, 3]).all(2), 0, 65535))


def test_cmyk_jpeg(tmp_path):
    cmyk = Image.fromarray(pixels()).convert("CMYK")
    cmyk.save(tmp_path / "a.jpg", quality=95, subsampling=0)
    loaded = read_image(tmp_path / "a.jpg")
    assert loaded.mode == "CMYK"
    assert np.abs(loaded.rgb.astype(int) - pixels()).max() <= 8
    cmyk.save(tmp_path / "b.jpg", icc_profile=SRGB)  # a profile that does not fit: still readable, not handed on
    assert read_image(tmp_path / "b.jpg").icc_profile is None


def test_planar_and_oriented_16_bit_tiff(tmp_path):
    rgb = pixels(dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(rgb, 2, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").rgb, rgb)
    tifffile.imwrite(tmp_path / "b.tif", rgb, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif").rgb, np.rot90(rgb, -1))
    header = read_header(tmp_path / "b.tif")
    assert (header.width, header.height) == (12, 20)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_exif_orientation(tmp_path, suffix, orientation):
    path = tmp_path / f"a{suffix}"
    image = Image.fromarray(pixels())
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(
        path,
        exif=exif,
        **({"lossless": True} if suffix == ".webp" else {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}),
    )
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    loaded, header = read_image(path).rgb, read_header(path)
    assert loaded.shape == expected.shape == (header.height, header.width, 3)
    assert np.abs(loaded.astype(int) - expected).max() <= (12 if suffix == ".jpg" else 0)


def test_suffix_may_lie_and_upper_case_is_known(tmp_path):
    write_image(tmp_path / "a.PNG", pixels())
    (tmp_path / "a.PNG").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").rgb, pixels())


# ---- bad files


def bad_file(tmp_path, kind: str):
    path = tmp_path / "bad.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "header only":
        path.write_bytes(content[:20])
    elif kind == "damaged":
        path.write_bytes(content[:200] + b"\xff" * 500 + content[700:])
    elif kind == "zero size":
        header = b"IHDR" + struct.pack(">II", 0, 64) + content[24:29]
        path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    return path


KINDS = ["missing", "empty", "text", "truncated", "header only", "damaged", "zero size", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_files_are_named_in_one_line(tmp_path, kind):
    path = bad_file(tmp_path, kind)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_truncation_in_every_format(tmp_path, suffix, part):
    path = tmp_path / f"a{suffix}"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ImageError, match=r"a\."):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_truncated_16_bit(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_image(path, np.random.default_rng(0).integers(0, 65536, (64, 64, 3), np.uint16))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"a\."):
        read_image(path)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(bomb + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    for read in (read_header, read_image):
        with pytest.raises(ImageError, match=r"bomb\.png: 100000 x 100000 pixels are more than the cap of 134,217,728"):
            read(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("strip.tif", lambda: tiff_with_strip(zlib.compress(bytes(100_000_000)), compression=8), "truncated or damaged"),
        ("zstd.tif", lambda: tiff_with_strip(zstd_encode(bytes(100_000_000)), compression=50000), "truncated or damaged"),
        ("depth.tif", lambda: tiff_with_strip(zlib.compress(bytes(24)), compression=8, extra={32997: 2**30}), "save it as 8"),
        ("scans.jpg", lambda: many_scans(1000), "more than 200 scans"),
        ("text.png", lambda: png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000))), "truncated or damaged"),
    ],
)
def test_bombs_behind_an_honest_header(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content())
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(ImageError, match=rf"{name}: .*{reason}"):
            read_image(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < 10


def test_a_bomb_that_unpacks_to_the_picture_and_more_takes_no_more_memory_than_the_picture(tmp_path):
    (tmp_path / "lzma.tif").write_bytes(tiff_with_strip(lzma.compress(bytes(100_000_000)), compression=34925))
    tracemalloc.start()
    try:
        assert read_image(tmp_path / "lzma.tif").rgb.shape == (2, 2, 3)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def png_with(kind: bytes, content: bytes) -> bytes:
    whole = png(4, 4, 8, 2, (b"\0" + bytes(12)) * 4)
    return whole[:33] + chunk(kind, content) + whole[33:]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_profiles_and_exif_are_no_reason_to_refuse_a_picture(tmp_path):
    cmyk = Image.fromarray(pixels()).convert("CMYK")
    cmyk.save(tmp_path / "good.jpg")
    cmyk.save(tmp_path / "bad.jpg", icc_profile=b"no profile" * 20)
    np.testing.assert_array_equal(read_image(tmp_path / "bad.jpg").rgb, read_image(tmp_path / "good.jpg").rgb)
    Image.fromarray(pixels()).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb, pixels())


def test_truncated_cmyk_with_a_profile_is_not_taken_for_whole(tmp_path):
    """A first attempt at decoding that fails must not be followed by a second that fills up with gray."""
    Image.fromarray(pixels(200, 200)).convert("CMYK").save(tmp_path / "a.jpg", icc_profile=SRGB)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-3000])
    with pytest.raises(ImageError, match=r"a\.jpg: truncated or damaged"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["animated.png", "animated.webp", "pages.tif"])
def test_of_several_pictures_the_first_is_read(name, tmp_path):
    (tmp_path / name).write_bytes(valid()[name])
    first, loaded = picture().astype(int), read_image(tmp_path / name).rgb
    assert np.abs(loaded - first).mean() < (12 if name.endswith("webp") else 0.1)
    assert np.abs(loaded - (255 - first)).mean() > 40


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_one_pixel(suffix, tmp_path):
    rgb = np.array([[[200, 100, 50]]], np.uint8)
    write_image(tmp_path / f"a{suffix}", rgb)
    loaded = read_image(tmp_path / f"a{suffix}").rgb
    assert loaded.shape == (1, 1, 3)
    assert np.abs(loaded.astype(int) - rgb).max() <= 6


def test_the_cap_is_the_callers_and_pillows_limit_is_untouched(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    write_image(tmp_path / "a.png", pixels(12, 20))
    assert read_image(tmp_path / "a.png", max_pixels=240).rgb.shape == (12, 20, 3)
    with pytest.raises(ImageError, match="more than the cap of 239 pixels"):
        read_image(tmp_path / "a.png", max_pixels=239)
    assert Image.MAX_IMAGE_PIXELS == 50


def test_32_bit_is_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: pixel format F is not supported"):
        read_image(tmp_path / "a.tif")


# ---- writing


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.gif", {}, "unknown image suffix"),
        ("a", {}, "unknown image suffix"),
        ("a.jpg", {"alpha": pixels()[..., 0]}, "JPEG cannot hold transparency; use .png"),
        ("a.bmp", {"text": {"a": "b"}}, "BMP cannot hold text entries; use .png"),
        ("a.png", {"alpha": pixels(5, 5)[..., 0]}, "alpha is"),
        ("a.jpg", {"rgb": np.zeros((1, 70_000, 3), np.uint8)}, "JPEG cannot hold a side of 70,000 pixels; use .png, .tif"),
        ("a.webp", {"rgb": np.zeros((17_000, 1, 3), np.uint8)}, "WEBP cannot hold a side of 17,000 pixels"),
    ],
)
def test_what_a_format_cannot_hold(tmp_path, name, options, message):
    with pytest.raises(HCFlowError, match=message):
        write_image(tmp_path / name, **{"rgb": pixels(), **options})
    assert not list(tmp_path.iterdir())


def test_16_bit_jpeg_and_wrong_arrays(tmp_path):
    with pytest.raises(HCFlowError, match=r"JPEG cannot hold 16 bit; use \.png, \.tif, \.tiff"):
        write_image(tmp_path / "a.jpg", pixels(dtype=np.uint16))
    with pytest.raises(HCFlowError, match="expected"):
        write_image(tmp_path / "a.png", pixels().astype(np.float32))
    with pytest.raises(HCFlowError, match="expected"):
        write_image(tmp_path / "a.png", pixels()[..., 0])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_image(tmp_path / "a.webp", pixels())
    before = (tmp_path / "a.webp").read_bytes()
    with pytest.raises(HCFlowError, match=r"cannot write .*a\.webp"):
        write_image(tmp_path / "a.webp", np.zeros((1, 20_000, 3), np.uint8))  # WebP ends at 16,383 pixels
    assert (tmp_path / "a.webp").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.webp"]


def test_quantize():
    values = np.array([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 2.0])
    np.testing.assert_array_equal(images.quantize(values), [0, 0, 0, 1, 255, 255])
    every = np.arange(65536)
    np.testing.assert_array_equal(images.quantize(every / 65535, 16), every)
    assert images.quantize(values, 16).dtype == np.uint16
    with pytest.raises(HCFlowError, match="NaN"):
        images.quantize(np.array([0.0, np.nan]))


# ---- folders


def make(folder, *names, size=(8, 8)):
    folder.mkdir(exist_ok=True)
    for name in names:
        write_image(folder / name, pixels(*size))
    return folder


def test_find_images(tmp_path):
    make(tmp_path, "img10.png", "img2.PNG", "img1.jpg", "B.webp", ".hidden.png")
    (tmp_path / "notes.txt").write_text("")
    make(tmp_path / "sub", "x.png")
    assert [path.name for path in pairs.find_images(tmp_path)] == ["B.webp", "img1.jpg", "img2.PNG", "img10.png"]
    with pytest.raises(HCFlowError, match="no such folder"):
        pairs.find_images(tmp_path / "nowhere")
    with pytest.raises(HCFlowError, match="is a file"):
        pairs.find_images(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HCFlowError, match=r"no images in this folder .*\.png"):
        pairs.find_images(tmp_path / "empty")


def test_pairing_by_name(tmp_path):
    hr = make(tmp_path / "hr", "0001.png", "0002.png", "Cat.png", "tax4.png", size=(8, 16))
    lr = make(tmp_path / "lr", "0001x4.png", "0002_x4.png", "cat.bmp", "tax4.png", size=(2, 4))
    found = pairs.pair_folders(hr, lr, 4)
    names = [(pair.hr.name, pair.lr.name) for pair in found]
    assert names == [("0001.png", "0001x4.png"), ("0002.png", "0002_x4.png"), ("Cat.png", "cat.bmp"), ("tax4.png", "tax4.png")]


def test_pairing_errors(tmp_path):
    hr = make(tmp_path / "hr", *(f"{i}.png" for i in range(9)))
    lr = make(tmp_path / "lr", "0.png", "1x2.png", size=(4, 4))
    with pytest.raises(HCFlowError, match=r"7 HR images have no partner in .*lr: 2.png, 3.png, 4.png, 5.png, 6.png and 2 more"):
        pairs.pair_folders(hr, lr, 2)
    make(lr, *(f"{i}.png" for i in range(2, 10)), size=(4, 4))
    with pytest.raises(HCFlowError, match=r"1 LR images have no partner in .*hr: 9\.png"):
        pairs.pair_folders(hr, lr, 2)
    (lr / "9.png").unlink()
    write_image(lr / "5.png", pixels(5, 4))
    with pytest.raises(HCFlowError, match=r"5\.png: 4 x 5 is not 1/2 of its HR image .*5\.png with 8 x 8"):
        pairs.pair_folders(hr, lr, 2)
    make(hr, "3.bmp")
    with pytest.raises(HCFlowError, match=r"3\.(bmp|png) and 3\.(bmp|png) have the same name"):
        pairs.pair_folders(hr, lr, 2)


def test_sizes_that_are_no_multiple_of_the_scale(tmp_path):
    hr = make(tmp_path / "hr", "a.png", "b.png", size=(11, 17))
    lr = make(tmp_path / "lr", "a.png", size=(2, 4))
    make(lr, "b.png", size=(3, 5))
    for pair in pairs.pair_folders(hr, lr, 4):
        big, small = pairs.load_pair(pair, 4)
        assert big.shape == (8, 16, 3)
        assert small.shape == (2, 4, 3)
    big, small = pairs.load_pair(pairs.Pair(hr / "a.png"), 4)
    np.testing.assert_array_equal(small, pairs.imresize(pixels(11, 17)[:8, :16], 1 / 4))
    with pytest.raises(HCFlowError, match=r"17 x 11 is smaller than one LR pixel at scale 16"):
        pairs.load_pair(pairs.Pair(hr / "a.png"), 16)


@pytest.mark.parametrize(("name", "count"), [("Set5", 5), ("Set14", 14), ("BSD100", 100)])
def test_the_usual_test_sets_pair(shared, name, count):
    folder = shared / f"data/eval/{name}/x4"
    assert len(pairs.pair_folders(folder / "HR", folder / "LR", 4)) == count
