"""From what users call an image to uint8 RGB, and what is refused."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from allrounder.errors import ImageInvalid
from allrounder.runtime.image import MAX_PIXELS, image_size, to_rgb

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def test_paths_images_and_arrays_give_the_same_pixels(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    for given in (RGB, Image.fromarray(RGB), path, str(path)):
        got = to_rgb(given)
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, RGB)


def test_a_strided_view_is_made_contiguous():
    view = RGB[:, ::-1]
    got = to_rgb(view)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, view)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "YCbCr", "1", "HSV", "LAB"])
def test_other_modes_become_rgb(mode):
    image = Image.new("RGB", (4, 3), (250, 250, 250))
    image = Image.new("LAB", (4, 3), (250, 128, 128)) if mode == "LAB" else image.convert(mode)
    got = to_rgb(image)
    assert got.shape == (3, 4, 3)
    assert got.min() >= 240


def test_transparent_parts_are_laid_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    np.testing.assert_array_equal(to_rgb(image), [[[255, 0, 0], [255, 255, 255]]])
    path = tmp_path / "palette.png"
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    palette.save(path, transparency=0)
    np.testing.assert_array_equal(to_rgb(path), [[[255, 255, 255], [9, 9, 9]]])


def test_sixteen_bit_grey_keeps_its_upper_bits(tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16)).save(path)
    np.testing.assert_array_equal(to_rgb(path)[0, :, 0], [0, 0x80, 0xFF])


def test_the_cameras_orientation_is_applied(tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to view
    Image.fromarray(RGB).save(path, exif=exif)
    np.testing.assert_array_equal(to_rgb(path), np.rot90(RGB, -1))


@pytest.mark.parametrize("orientation", range(9))
def test_a_size_that_is_read_alone_is_that_of_the_pixels(tmp_path, orientation):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(path, exif=exif)
    assert image_size(path) == to_rgb(path).shape[:2]
    path.write_bytes(b"no image")
    with pytest.raises(ImageInvalid, match="turned"):
        image_size(path)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    path = tmp_path / "two.gif"
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("black", "white")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert to_rgb(path).max() == 0


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.array(None),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ImageInvalid):
        to_rgb(array)


@pytest.mark.parametrize("thing", [None, 3, b"bytes", [[1]], object(), io.BytesIO(b"")])
def test_what_is_no_image_is_refused(thing):
    with pytest.raises(ImageInvalid, match="not an image"):
        to_rgb(thing)


def test_missing_files_folders_pipes_and_devices_are_refused(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # opening it would hang
    for path in (tmp_path / "none.png", tmp_path, pipe, "/dev/zero", "", "\0"):
        with pytest.raises(ImageInvalid):
            to_rgb(path)


def png(width, height, data=b""):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", b"\x89PNG\r\n\x1a\n", png(4, 4, b"junk"), png(9000, 9000), png(30000, 30000), png(4000, 4)],
    ids=["empty", "text", "header", "junk", "large", "bomb", "narrow"],
)
def test_hostile_files_are_refused(tmp_path, content):
    path = tmp_path / "hostile.png"
    path.write_bytes(content)
    with pytest.raises(ImageInvalid) as caught:
        to_rgb(path)
    assert "hostile.png" in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ImageInvalid, match=r"whole\.jpg"):
        to_rgb(path)


def test_large_arrays_and_images_are_refused_before_they_are_copied():
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(ImageInvalid, match="too large"):
        to_rgb(np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (side, side, 3)))
    with pytest.raises(ImageInvalid, match="floats"):
        to_rgb(Image.new("F", (2, 2)))
    with pytest.raises(ImageInvalid, match="16 bits"):
        to_rgb(Image.fromarray(np.full((2, 2), 70000, np.int32)))
