"""Images by themselves: every form that they come in, and every way in which one can be broken."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from vision_families import picture
from vision_rows import png

from ganpo_core.data.flaws import Flaw, RowError
from ganpo_core.data.images import ImageStore, decoded


@pytest.fixture
def image() -> Image.Image:
    return picture(random.Random(1))


def test_an_image_is_found_in_every_form(tmp_path: Path, image: Image.Image) -> None:
    """The same pixels from a relative path, an absolute one, a file URL, bytes, what `datasets` gives, and PIL."""
    (tmp_path / "a b.png").write_bytes(png(image))
    store, absolute = ImageStore(), tmp_path / "a b.png"
    forms: list[object] = [
        "a b.png", str(absolute), absolute, absolute.as_uri(), png(image), bytearray(png(image)), image,
        {"bytes": png(image), "path": None}, {"bytes": None, "path": "a b.png"}, {"path": absolute.as_uri()},
    ]
    stored = [store.add(form, tmp_path) for form in forms]
    assert {store.read(each).tobytes() for each in stored} == {image.tobytes()}
    assert len({each.digest for each in stored}) == 1 and {each.size for each in stored} == {(8, 8)}
    assert [each.path is None for each in stored] == [False] * 4 + [True] * 4 + [False] * 2


@pytest.mark.parametrize(("value", "flaw", "said"), [
    ("https://example.org/cat.png", Flaw.REMOTE_IMAGE, "read from this machine alone"),
    ("nowhere.png", Flaw.MISSING_IMAGE, "nowhere.png: No such file"),
    (None, Flaw.MISSING_IMAGE, "null"),
    ({"bytes": None, "path": None}, Flaw.MISSING_IMAGE, "null"),
    (b"not an image", Flaw.BROKEN_IMAGE, "cannot be decoded: cannot identify image file"),
    (7, Flaw.WRONG_TYPE, "of type int"),
])
def test_what_is_no_image_is_a_flaw_of_its_row(value: object, flaw: Flaw, said: str, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=said) as caught:
        ImageStore().add(value, tmp_path)
    assert caught.value.flaw == flaw


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_that_is_cut_off_is_broken(kind: str) -> None:
    buffer = io.BytesIO()
    picture(random.Random(0), (64, 64)).save(buffer, format=kind)
    with pytest.raises(RowError, match="broken_image: an image cannot be decoded"):
        decoded(buffer.getvalue()[: len(buffer.getvalue()) // 2])


def test_an_image_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch, image: Image.Image) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(RowError, match="exceeds limit"):
        decoded(png(image))


def test_images_are_upright_and_rgb() -> None:
    """Orientation 6 is a quarter turn: 8 x 4 becomes 4 x 8."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("L", (8, 4), 9).save(buffer, format="JPEG", exif=exif)
    found = decoded(buffer.getvalue())
    assert (found.size, found.mode) == ((4, 8), "RGB")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_pil_images_of_every_mode_are_stored_as_rgb(mode: str) -> None:
    store = ImageStore()
    found = store.read(store.add(Image.new(mode, (5, 4)), None))
    assert (found.size, found.mode) == ((5, 4), "RGB")


def test_a_pil_image_is_turned_upright_as_its_file_would_be(tmp_path: Path) -> None:
    """Orientation 6 again: 8 x 4 becomes 4 x 8, from the file and from the image that was opened from it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(random.Random(3), (8, 4)).save(tmp_path / "x.png", exif=exif)
    store = ImageStore()
    file, opened = (store.read(store.add(form, tmp_path)) for form in ("x.png", Image.open(tmp_path / "x.png")))
    assert file.size == opened.size == (4, 8) and file.tobytes() == opened.tobytes()


def test_a_pil_image_of_a_file_that_is_cut_off_is_broken(tmp_path: Path) -> None:
    """Opened, and never read: PIL finds out when it is."""
    content = png(picture(random.Random(0), (64, 64)))
    with pytest.raises(RowError, match="broken_image"):
        ImageStore().add(Image.open(io.BytesIO(content[: len(content) // 2])), tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "TGA", "PCX", "DDS", "AVIF"])
def test_whatever_is_wrong_with_a_file_is_a_flaw_of_its_row(kind: str) -> None:
    """Up to twelve bytes of each of 60 files changed, a third of them cut off: a picture or a RowError, and nothing else."""
    draw, buffer = random.Random(0), io.BytesIO()
    try:
        picture(draw, (24, 18)).save(buffer, format=kind)
    except (KeyError, OSError):
        pytest.skip(f"this pillow does not write {kind}")
    refused = 0
    for case in range(60):
        content = bytearray(buffer.getvalue())
        for _ in range(draw.randint(1, 12)):
            content[draw.randrange(min(len(content), 300))] = draw.randrange(256)
        try:
            assert decoded(bytes(content[: draw.randrange(len(content))] if case % 3 == 0 else content)).mode == "RGB"
        except RowError as error:
            assert error.flaw == Flaw.BROKEN_IMAGE
            refused += 1
    assert refused > 0


def test_a_file_that_claims_to_be_absurdly_large_is_not_decoded() -> None:
    """A PNG of a kilobyte whose header says 100 000 x 100 000."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    with pytest.raises(RowError, match="exceeds limit"):
        decoded(file)
