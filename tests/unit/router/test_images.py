"""Pictures of every common kind become the same RGB square; what is no picture is named."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cascade_router import RequestError
from cascade_router.images import MAX_BYTES, Allowance, pixels_from_bytes

RED = (200, 30, 30)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(mode="RGB", size=(90, 60)):
    """Left half red, right half black."""
    image = Image.new("RGB", size)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("RGB", "PNG"), ("CMYK", "JPEG"), ("P", "PNG"), ("P", "GIF"), ("RGBA", "PNG"),
     ("RGB", "WEBP"), ("RGB", "BMP"), ("RGB", "TIFF")],
)  # fmt: skip
def test_colour_pictures_of_every_mode_are_decoded(mode, kind):
    """The left half is red and the right half black, whatever the file's mode."""
    pixels = pixels_from_bytes(encoded(halves(mode), kind), 32)

    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    np.testing.assert_allclose(pixels[16, 4], RED, atol=12)
    np.testing.assert_allclose(pixels[16, 28], (0, 0, 0), atol=12)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_pictures_keep_their_range(dtype, kind):
    """Sixteen bits are scaled to eight, not cut off at 255."""
    top = np.iinfo(dtype).max
    grey = np.full((40, 40), top // 2, dtype=dtype)

    pixels = pixels_from_bytes(encoded(Image.fromarray(grey), kind), 16)

    np.testing.assert_allclose(pixels, 127, atol=1)


def test_exif_rotation_is_applied():
    """A picture marked as turned by 90 degrees is turned back before the square is cut."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to show
    pixels = pixels_from_bytes(encoded(halves(), "JPEG", exif=exif), 32)

    np.testing.assert_allclose(pixels[4, 16], RED, atol=12)
    np.testing.assert_allclose(pixels[28, 16], (0, 0, 0), atol=12)


def test_transparency_is_laid_on_white():
    """What is see-through becomes white, not the colour hidden under it."""
    clear = Image.new("RGBA", (20, 20), (*RED, 0))

    assert (pixels_from_bytes(encoded(clear, "PNG"), 8) == 255).all()


def test_the_centre_square_is_taken():
    """The sides of a wide picture are cut, so that its middle fills the square."""
    wide = Image.new("RGB", (300, 100))
    wide.paste(RED, (100, 0, 200, 100))

    pixels = pixels_from_bytes(encoded(wide, "PNG"), 10)

    np.testing.assert_allclose(pixels, [[RED] * 10] * 10, atol=20)


def whole_jpeg():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise), "JPEG")


def huge_png():
    """A picture of 10,000 x 10,000 pixels in a few kilobytes."""
    return encoded(Image.new("1", (10_000, 10_000)), "PNG")


def png_with(kind, content):
    """A whole small PNG with one chunk more, its checksum right."""
    png = encoded(Image.new("RGB", (8, 8)), "PNG")
    body = kind + content
    chunk = struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]  # behind the header


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"eXIf", b"II*\0"),
        (b"eXIf", b"II+\0\x08\0\0\0" + bytes(8)),
        (b"tEXt", b"Raw profile type exif\0\nexif\n4\n49492a00"),
        (b"tEXt", b"xmp\0what else"),
        (b"tEXt", b"transparency\0abc"),
    ],
)
def test_odd_metadata_is_read_over_or_refused(kind, content):
    """Pillow raises ``struct.error`` or ``TypeError`` for some: the caller's error, like any."""
    with contextlib.suppress(RequestError):
        assert pixels_from_bytes(png_with(kind, content), 4).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "input IMAGE: is empty"),
        (b"hello", r"is not a picture of a known format \(5 bytes\)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (whole_jpeg()[:900], "cannot be decoded: image file is truncated"),
        (encoded(halves(), "PNG")[:60], "cannot be decoded"),
        (huge_png(), "is 10000 x 10000, at most 64000000 pixels"),
        (bytes(MAX_BYTES + 1), f"has {MAX_BYTES + 1} bytes, at most {MAX_BYTES}"),
    ],
)
def test_what_cannot_be_decoded_is_the_callers_error(data, message):
    """The error says what is wrong with the bytes and what to send."""
    with pytest.raises(RequestError, match=message) as caught:
        pixels_from_bytes(data, 32)

    assert "help: send" in str(caught.value)


def test_damaged_files_never_raise_anything_else():
    """A thousand mutations of real files end in pixels or in our error."""
    rng = np.random.default_rng(7)
    kinds = ["PNG", "GIF", "TIFF", "WEBP", "BMP"]
    files = [whole_jpeg(), *(encoded(halves("P").convert("RGB"), kind) for kind in kinds)]
    refused = 0
    for i in range(1000):
        data = bytearray(files[i % len(files)])
        for place in rng.integers(0, len(data), 1 + i % 8):
            data[place] = rng.integers(0, 256)
        try:
            assert pixels_from_bytes(bytes(data), 8).shape == (8, 8, 3)
        except RequestError:
            refused += 1

    assert 50 < refused < 950


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded():
    """A scan of a hundred bytes costs a whole decoding; ordinary progressive files pass."""
    good = encoded(Image.new("L", (4000, 4000), 128), "JPEG", progressive=True)
    scan = good[good.rindex(b"\xff\xda") : -2]
    assert pixels_from_bytes(good, 32).shape == (32, 32, 3)

    with pytest.raises(RequestError, match=r"is 4000 x 4000 in 10\d scans"):
        pixels_from_bytes(good[:-2] + scan * 100 + good[-2:], 32)


def tiff_of_strips(size, rows, n_strips):
    """Grey, not compressed; all strips lie at the same place, and hold nothing."""
    tags = {256: size[0], 257: size[1], 258: 8, 259: 1, 262: 1, 278: rows}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    behind = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries.insert(5, struct.pack("<HHII", 273, 4, n_strips, behind))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(entries) + bytes(4) + struct.pack("<I", behind) * n_strips


@pytest.mark.parametrize(
    ("size", "rows", "n_strips"), [((4000, 4000), 3999, 200), ((1, 200_000), 1, 200_000)]
)
def test_a_tiff_of_strips_over_and_over_is_refused_before_it_is_decoded(size, rows, n_strips):
    """Each may cover the whole picture; as many as lie side by side are taken."""
    with pytest.raises(RequestError, match=f"in {n_strips} tiles, far more than"):
        pixels_from_bytes(tiff_of_strips(size, rows, n_strips), 8)

    good = encoded(Image.new("L", (3000, 3000), 128), "TIFF")
    assert (pixels_from_bytes(good, 8) == 128).all()


def test_a_jpeg_of_many_exif_segments_is_refused_unopened():
    """Pillow copies all that came before for each of them; as many as pictures may be in a file."""
    good, exif = whole_jpeg(), Image.Exif()
    exif[0x0112] = 1
    body = exif.tobytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    assert pixels_from_bytes(good[:2] + segment * 64 + good[2:], 32).shape == (32, 32, 3)

    with pytest.raises(RequestError, match="has 65 segments of EXIF"):
        pixels_from_bytes(good[:2] + segment * 65 + good[2:], 32)


def netpbm(kind, size, body):
    return b"%s\n%d %d\n" % (kind, *size) + body


def run_length_bmp(size):
    """An indexed BMP of one colour, a run of 255 pixels or less after the other."""
    width, height = size
    runs = (b"\xff\x01" * (width // 255) + bytes([width % 255, 1, 0, 0])) * height + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 2, 0)
    palette = bytes([0, 0, 0, 0, *RED[::-1], 0])
    return b"BM" + struct.pack("<IHHI", 62 + len(runs), 0, 0, 62) + header + palette + runs


COMMENTS = b"#\n" * 40_000


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (
            netpbm(b"P2", (8, 8), b"255\n" + b"9 " * 64),
            netpbm(b"P2", (8, 8), b"255\n" + COMMENTS + b"9 " * 64),
        ),
        (netpbm(b"P1", (8, 8), b"1" * 64), netpbm(b"P1", (8, 8), COMMENTS + b"1" * 64)),
        (
            netpbm(b"P5", (8, 8), b"254\n" + bytes(64)),
            netpbm(b"P5", (2000, 600), b"254\n" + bytes(2000 * 600)),
        ),
        (run_length_bmp((300, 300)), run_length_bmp((4000, 300))),
    ],
    ids=["text", "bits as text", "odd depth", "run lengths"],
)
def test_kinds_that_pillow_decodes_in_python_are_taken_while_small(small, large):
    """A large one of them would hold the model for minutes; a request may have many of them."""
    assert pixels_from_bytes(small, 8).shape == (8, 8, 3)

    with pytest.raises(RequestError, match="of a kind that is slow to read"):
        pixels_from_bytes(large, 8)


def test_pictures_of_one_request_share_an_allowance():
    """Many large pictures at once are refused at the one that is too much."""
    allowance = Allowance(2 * 90 * 60)
    picture = encoded(halves(), "PNG")
    for _ in range(2):
        pixels_from_bytes(picture, 16, allowance)

    with pytest.raises(RequestError, match="more than 10800 pixels together"):
        pixels_from_bytes(picture, 16, allowance)
