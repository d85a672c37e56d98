"""Folders, pipes, sizes, formats and metadata: what `upscale` and `downscale` make of the files that people have."""

from __future__ import annotations

import errno
import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiny import photograph

from hcflow_tf.data.resize import imresize, imresize_to
from hcflow_tf.images import write
from hcflow_tf.images.images import ImageError, read_image, write_image
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.runtimes.bicubic import BicubicRuntime
from hcflow_tf.support import cli

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def upscale(*arguments: str) -> int:
    return cli.execute("upscale", ["--model", "bicubic", "--scale", "2", *arguments])


def made(folder: str = "out") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in pathlib.Path(folder).rglob("*") if path.is_file())


def save(name: str, image_format: str | None = None, **options) -> None:
    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(8, 12)).save(name, image_format, **options)


# ---- which files


def test_the_folders_of_the_table(shared, monkeypatch, capsys):
    """Each answer is one of those that the table accepts."""
    root = shared / "fixtures/photographs"
    if not (root / "expected.json").is_file():
        pytest.skip(f"no pictures in {root}")
    out = pathlib.Path.cwd() / "out"
    monkeypatch.chdir(root)
    seen = 0
    for name, expected in json.loads((root / "expected.json").read_text())["folders"].items():
        if not pathlib.Path(name).is_dir():  # odd names are in an archive
            continue
        target = out / name
        code, err = cli.execute("upscale", ["--model", "bicubic", name, "-o", str(target)]), capsys.readouterr().err
        files, said = made(str(target)), err.replace(name, "").casefold()

        def holds(answer: dict, code=code, files=files, said=said) -> bool:
            return (
                (code == 0) == (answer["exit"] == 0)
                and ("outputs" not in answer or files == sorted(answer["outputs"]))
                and len(files) >= answer.get("outputs_count_min", 0)
                and len(files) == answer.get("outputs_count", len(files))
                and set(answer.get("includes", ())) <= set(files)
                and any(word.casefold() in said for word in answer.get("says_any", [""]))
                and all(word.casefold() in said for word in answer.get("says_all", ()))
                and not any(word.casefold() in said for word in answer.get("says_none", ()))
            )

        assert any(map(holds, expected["accept"])), (name, code, files, err)
        seen += 1
    assert seen >= 7


def test_subfolders_are_named_or_taken(capsys):
    for name in ("in/a.png", "in/sub/b.jpg", "in/sub/deep/c.png", "in/.hidden/d.png", "in/__MACOSX/e.png"):
        save(name)
    assert upscale("in", "-o", "out") == 0
    assert "hcflow upscale: note: in: 1 subfolder passed over (sub); --recursive takes them\n" in capsys.readouterr().err
    assert made() == ["a.png"]
    assert upscale("in", "-o", "in/result", "--recursive") == 0
    assert upscale("in", "-o", "in/result", "--recursive", "--overwrite") == 0  # its own output is no input
    assert made("in/result") == ["a.png", "sub/b.png", "sub/deep/c.png"]
    assert upscale("in/sub", "-o", "out", "--recursive") == 0
    assert upscale("in/sub/deep", "in/.hidden", "-o", "both") == 0


def test_what_looks_like_a_picture_is_read_or_named(capsys):
    save("in/a.gif")
    save("in/b.jfif", "JPEG")
    save("in/c.avif")
    save("in/d.ico", "ICO")
    pathlib.Path("in/e.psd").write_bytes(b"8BPS" + bytes(40))
    pathlib.Path("in/notes.txt").write_text("not a picture")
    assert upscale("in", "-o", "out") == 1
    assert made() == ["a.png", "b.png", "c.png"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hcflow")]
    assert len(lines) == 2
    assert "in/d.ico: is an icon (ICO), not a PNG" in lines[0]
    assert "in/e.psd: is PSD, not a PNG" in lines[1]


def test_inputs_of_one_name_get_several(capsys):
    save("in/x.jpg")
    save("in/x.png")
    save("in/X.bmp")
    save("in/x_2.png")
    assert upscale("in", "-o", "out") == 0
    assert len(made()) == 4
    assert len({name.casefold() for name in made()}) == 4
    capsys.readouterr()
    assert upscale("in", "-o", "out", "--skip-existing", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["status"] for line in lines} == {"skipped"}


def test_a_missing_extra_is_named(shared, monkeypatch, capsys):
    source = shared / "fixtures/photographs/other/photo.heic"
    if not source.is_file():
        pytest.skip(f"no {source}")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert upscale(str(source), "-o", "out.png") == 1
    assert "photo.heic: is HEIC, which needs pillow-heif: pip install 'hcflow_tf[heic]'" in capsys.readouterr().err


# ---- going on


def test_a_picture_that_fails_in_the_model_does_not_stop_the_others(monkeypatch, capsys):
    for name in "abcd":
        save(f"in/{name}.png")
    calls = []

    def decode(self, lr, latents=()):
        if np.ptp(lr) == 0:  # the gray picture that tells a bad picture from bad weights
            return np.repeat(np.repeat(lr, 2, 1), 2, 2)
        calls.append(lr)
        if len(calls) == 2:
            return np.full_like(np.repeat(np.repeat(lr, 2, 1), 2, 2), np.inf)
        if len(calls) == 3:
            raise MemoryError
        return np.repeat(np.repeat(lr, 2, 1), 2, 2)

    monkeypatch.setattr(BicubicRuntime, "decode", decode)
    assert upscale("in", "-o", "out", "--json", "--tile", "0") == 1
    assert made() == ["a.png", "d.png"]
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert [line["status"] for line in lines] == ["done", "failed", "failed", "done"]
    assert "in/b.png: bicubic computes values that are not finite" in captured.err
    assert "in/c.png: bicubic: out of memory" in captured.err
    summary = captured.err.splitlines()[-1]
    assert summary.startswith("[4/4] 2 done, 0 skipped, 2 failed, ")
    assert summary.endswith(" s per megapixel")
    assert (lines[0]["outputs"], lines[0]["width"], lines[0]["height"]) == (["out/a.png"], 24, 16)


def test_a_batch_that_was_cut_off_goes_on_to_the_same_files(monkeypatch):
    for number in range(6):
        save(f"in/{number}.png")
    assert upscale("in", "-o", "whole") == 0
    real, calls = Scaler.upscale, []

    def compute(self, *args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Scaler, "upscale", compute)
    assert upscale("in", "-o", "out") == 130
    assert made() == ["0.png", "1.png", "2.png"]
    times = {name: pathlib.Path("out", name).stat().st_mtime_ns for name in made()}
    assert upscale("in", "-o", "out", "--skip-existing") == 0
    assert {name: pathlib.Path("out", name).stat().st_mtime_ns for name in times} == times
    assert made() == made("whole")
    assert all(pathlib.Path("out", name).read_bytes() == pathlib.Path("whole", name).read_bytes() for name in made())


def test_the_next_image_is_computed_while_one_is_written(monkeypatch, capsys):
    """And still each is told of in its order, and its own errors are its own."""
    for number in range(3):
        save(f"in/{number}.png")
    computed, compute, real = threading.Semaphore(0), Scaler.upscale, write.write_image

    def upscale_and_tell(self, *args):
        result = compute(self, *args)
        computed.release()
        return result

    def wait_and_write(path, *args, **options):
        if path.name == "0.png":
            assert computed.acquire(timeout=60) and computed.acquire(timeout=60), "nothing was computed meanwhile"
        if path.name == "1.png":
            raise ImageError(f"cannot write {path}: as this test wants it")
        real(path, *args, **options)

    monkeypatch.setattr(Scaler, "upscale", upscale_and_tell)
    monkeypatch.setattr(write, "write_image", wait_and_write)
    assert upscale("in", "-o", "out", "--json") == 1
    assert made() == ["0.png", "2.png"]
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(pathlib.Path(line["input"]).name, line["status"]) for line in told] == [
        ("0.png", "done"),
        ("1.png", "failed"),
        ("2.png", "done"),
    ]


@pytest.mark.slow
def test_a_killed_batch_goes_on_to_the_same_files():
    """By SIGKILL in the middle: no file is half there."""
    write_image("in/0.png", photograph(64, 64))
    for number in range(1, 60):
        os.link("in/0.png", f"in/{number}.png")
    command = [sys.executable, "-m", "hcflow_tf.upscale", "--model", "bicubic", "in", "-o", "out", "--skip-existing"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def finished() -> list[str]:
        return [name for name in made() if not name.startswith(".")]  # some may be half there, hidden

    while not pathlib.Path("out").is_dir() or len(finished()) < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 10 <= len(finished()) < 60
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    assert len(finished()) == 60
    assert len({pathlib.Path("out", name).read_bytes() for name in finished()}) == 1


@pytest.mark.slow
def test_two_thousand_files_take_no_more_memory_than_two_hundred():
    write_image("in/0.png", photograph(40, 40))
    for number in range(1, 2000):
        os.link("in/0.png", f"in/{number}.png")
    program = (
        "import resource, sys; from hcflow_tf.images import batch; from hcflow_tf.support import cli\n"
        "peaks, run = [], batch.Batch.tell_programs\n"
        "def tell(self, **what): peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "batch.Batch.tell_programs = tell\n"
        "assert cli.execute('upscale', ['--model', 'bicubic', 'in', '-o', 'out']) == 0\n"
        "print(len(peaks), peaks[199], peaks[-1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    count, early, late = map(int, done.stdout.split())
    assert count == 2000
    assert late <= early * 1.02 + 4096, f"{early} KiB after 200 files, {late} after 2000"


# ---- pipes, sizes, formats


def test_pipes():
    save("a.jpg", quality=95)
    program = "import sys; from hcflow_tf.support import cli; sys.exit(cli.execute('upscale', sys.argv[1:]))"
    command = [sys.executable, "-c", program, "--model", "bicubic", "-", "-o", "-", "--format", "webp"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input=pathlib.Path("a.jpg").read_bytes(), capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    image = Image.open(io.BytesIO(done.stdout))
    assert (image.format, image.size) == ("WEBP", (48, 32))
    damaged = subprocess.run(command, input=b"nothing", capture_output=True, env=environment)
    assert damaged.returncode == 1
    assert damaged.stdout == b""
    assert b"upscale: standard input: not a PNG" in damaged.stderr
    for content, status in ((pathlib.Path("a.jpg").read_bytes(), "done"), (b"nothing", "failed")):
        told = subprocess.run(
            [*command[:-4], "-o", "out", "--json", "--overwrite"], input=content, capture_output=True, env=environment
        )
        line = json.loads(told.stdout)
        assert (line["input"], line["status"]) == ("standard input", status)
        assert b"tmp" not in told.stdout + told.stderr


def test_a_name_that_is_too_long_stops_no_other(capsys):
    for name in ("a" * 251, "b", "c"):
        save(f"in/{name}.png")
    assert upscale("in", "-o", "out", "--format", "jpeg", "--json") == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["status"] for line in told] == ["failed", "done", "done"]
    assert "File name too long" in told[0]["message"]
    assert made() == ["b.jpeg", "c.jpeg"]


def test_what_ends_a_batch_is_told_to_programs_and_what_was_done_before_it(monkeypatch, capsys):
    for name in "abc":
        save(f"in/{name}.png")
    write_one = Image.Image.save

    def save_until_full(image, path, *arguments, **options):
        if ".b" in pathlib.Path(path).name:  # what becomes b.png
            raise OSError(errno.ENOSPC, "No space left on device")
        write_one(image, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", save_until_full)
    assert upscale("in", "-o", "out", "--json") == 1
    told = {line["input"]: line["status"] for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (told["in/a.png"], told["in/b.png"]) == ("done", "failed")
    assert made() == [pathlib.Path(name).name for name, status in told.items() if status == "done"]


@pytest.mark.parametrize(
    ("option", "size"),
    [
        (["--outscale", "2.5"], (30, 20)),
        (["--outscale", "0.5"], (6, 4)),
        (["--size", "1920x1080"], (1620, 1080)),
        (["--size", "10x100"], (10, 7)),
        (["--size", "1x1"], (1, 1)),
    ],
)
def test_sizes(option, size):
    rgb, alpha = photograph(8, 12), photograph(8, 12, seed=1)[..., 0]
    write_image("a.png", rgb, alpha=alpha)
    assert upscale("a.png", "-o", "out.png", *option) == 0
    out = read_image("out.png")
    assert (out.rgb.shape, out.alpha.shape) == ((*size[::-1], 3), size[::-1])
    expected = imresize_to(imresize(rgb, 2).astype(np.float32) / 255, *size[::-1])
    assert np.abs(out.rgb / 255 - expected.clip(0, 1)).max() <= 0.51 / 255
    np.testing.assert_array_equal(out.alpha, imresize_to(alpha, *size[::-1]))


def test_a_rescaling_model_is_told_what_it_is_not_for(capsys):
    save("a.png")
    assert cli.execute("downscale", ["a.png", "-o", "lr.png", "--model", "rescale-x4-compact"]) == 0
    better = "lr.png: rescale-x4-compact made it, and restores it better than"
    for model in ("rescale-x4-compact", "rescale-x4-compact-3", "sr-x4-compact-2"):
        capsys.readouterr()
        assert cli.execute("upscale", ["lr.png", "-o", f"{model}.png", "--model", model]) == 0
        assert (f"{better} {model}" in capsys.readouterr().err) == (model != "rescale-x4-compact")
    assert cli.execute("upscale", ["lr.png", "a.png", "-o", "out", "--samples", "2"]) == 0
    error = capsys.readouterr().err
    assert "rescale-x4-compact is a rescaling model: --temperature 0 restores, others put chance" in error
    assert "sr-x4-compact-2 is" not in error


def test_a_size_is_not_for_rescaling_models(capsys):
    save("a.png")
    assert cli.execute("upscale", ["--model", "rescale-x4-compact", "a.png", "-o", "out.png", "--size", "9x9"]) == 2
    assert "--size: rescale-x4-compact is a rescaling model" in capsys.readouterr().err


@pytest.mark.parametrize("height_width", [(3, 7), (16, 24), (31, 5)])
def test_imresize_to_is_imresize_where_the_scale_is_one_number(height_width):
    image = photograph(8, 12)
    resized = imresize_to(image, *height_width)
    assert resized.shape == (*height_width, 3)
    if height_width == (16, 24):
        np.testing.assert_array_equal(resized, imresize(image, 2))
    np.testing.assert_array_equal(imresize_to(image.swapaxes(0, 1), *height_width[::-1])[..., 0].shape, height_width[::-1])


def test_formats_and_qualities():
    save("in/a.jpg")
    save("in/b.gif")
    save("in/c.webp")
    assert upscale("in", "-o", "same", "--format", "same") == 0
    assert made("same") == ["a.jpg", "b.png", "c.webp"]
    sizes = {}
    for quality in ("40", "90"):
        for suffix in ("jpg", "avif", "webp"):
            assert upscale("in/a.jpg", "-o", f"{suffix}{quality}", "--format", suffix, "--quality", quality) == 0
            path = pathlib.Path(f"{suffix}{quality}/a.{suffix}")
            sizes[suffix, quality] = path.stat().st_size
            np.testing.assert_allclose(
                np.asarray(Image.open(path).convert("RGB")), imresize(read_image("in/a.jpg").rgb, 2), atol=140
            )
    assert all(sizes[suffix, "40"] < sizes[suffix, "90"] for suffix in ("jpg", "avif", "webp"))
    layers = {quality: Image.open(f"jpg{quality}/a.jpg").layer for quality in ("40", "90")}
    assert layers["40"][0][1:3] == (2, 2)
    assert layers["90"][0][1:3] == (1, 1)


@pytest.mark.parametrize(
    ("options", "suffix", "depth"),
    [([], "png", 16), (["--bits", "8"], "png", 8), (["--format", "tif"], "tif", 16), (["--format", "jpg"], "jpg", 8)],
)
def test_sixteen_bits_are_kept_unless_told(options, suffix, depth):
    write_image("deep.tif", photograph(8, 12).astype(np.uint16) * 257 + 1)
    assert upscale("deep.tif", "-o", "out", *options) == 0
    assert read_image(f"out/deep.{suffix}").bit_depth == depth


# ---- metadata


def exif_with_everything() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif[0x8769] = {0xA002: 12, 0xA003: 8, 0x829A: 0.01, 0x927C: b"old offsets"}
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return exif


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" dc:title="kept" hdrgm:Version="1.0"/></x:xmpmeta>'


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif"])
def test_metadata_is_kept_and_corrected(suffix, capsys):
    save("in.jpg", exif=exif_with_everything(), xmp=XMP, dpi=(300, 300))
    assert upscale("in.jpg", "-o", f"out.{suffix}") == 0
    assert "its HDR gain map is dropped" in capsys.readouterr().err
    with Image.open(f"out.{suffix}") as image:
        image.load()
        exif, details = image.getexif(), image.getexif().get_ifd(0x8769)
        assert image.size == (16, 24)  # turned once
        assert (exif[0x0112], exif[0x010F]) == (1, "Maker")
        assert (details[0xA002], details[0xA003]) == (16, 24)
        assert float(details[0x829A]) == pytest.approx(0.01)
        assert 0x927C not in details
        assert exif.get_ifd(0x8825)[1] == "N"
        xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
        assert b'tiff:Orientation="1"' in xmp
        assert b'dc:title="kept"' in xmp
        assert b"hdrgm" not in xmp
        if suffix in ("jpg", "png"):
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert upscale("in.jpg", "-o", f"bare.{suffix}", "--strip-metadata") == 0
    with Image.open(f"bare.{suffix}") as image:
        assert not image.getexif()
        assert not {"dpi", "xmp", "XML:com.adobe.xmp"} & set(image.info) or suffix == "jpg"


def test_a_thumbnail_is_dropped():
    thumbnail = io.BytesIO()
    Image.new("RGB", (4, 4)).save(thumbnail, "JPEG")
    content = thumbnail.getvalue()
    # A TIFF structure of two directories, the second with the thumbnail.
    first = b"\1\0" + struct.pack("<HHII", 0x0112, 3, 1, 1) + struct.pack("<I", 26)
    second = b"\2\0" + struct.pack("<HHII", 0x0201, 4, 1, 56) + struct.pack("<HHII", 0x0202, 4, 1, len(content)) + bytes(4)
    save("in.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + first + second + content)
    assert content in pathlib.Path("in.jpg").read_bytes()
    assert upscale("in.jpg", "-o", "out.jpg") == 0
    assert content not in pathlib.Path("out.jpg").read_bytes()


def test_iptc_and_what_has_no_place(capsys):
    records = b"\x1c\x02\x50\0\4Name"
    resource = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + len(records).to_bytes(4, "big") + records + b"\0"
    save("in.jpg", extra=b"\xff\xed" + (len(resource) + 2).to_bytes(2, "big") + resource)
    assert upscale("in.jpg", "-o", "out.jpg") == 0
    with Image.open("out.jpg") as image:
        assert image.info["photoshop"][0x0404] == records
    assert upscale("in.jpg", "-o", "out.tif") == 0
    assert bytes(tifffile.TiffFile("out.tif").pages[0].tags[33723].value) == records
    assert "IPTC dropped" not in capsys.readouterr().err
    assert upscale("in.jpg", "-o", "out.png") == 0
    assert "hcflow upscale: note: in.jpg: IPTC dropped, for which .png files have no place" in capsys.readouterr().err


def test_two_other_readers_agree_on_what_is_written():
    """Pillow and tifffile read the files that are written as this program does."""
    rgb, alpha = photograph(9, 14), photograph(9, 14, seed=1)[..., 0]
    for suffix in ("png", "tif", "webp", "bmp"):
        extra = None if suffix == "bmp" else alpha
        write_image(f"a.{suffix}", rgb, alpha=extra)
        expected = rgb if extra is None else np.dstack([rgb, alpha])
        np.testing.assert_array_equal(np.asarray(Image.open(f"a.{suffix}")), expected)
    np.testing.assert_array_equal(tifffile.imread("a.tif"), np.dstack([rgb, alpha]))
    deep = rgb.astype(np.uint16) * 257 + 3
    write_image("deep.tif", deep)
    np.testing.assert_array_equal(tifffile.imread("deep.tif"), deep)
    write_image("deep.png", deep)
    np.testing.assert_array_equal(np.asarray(Image.open("deep.png")), (deep >> 8).astype(np.uint8))
