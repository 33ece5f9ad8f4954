"""Images of rows: found, decoded once to see that they are whole, and read again whenever a batch needs them."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard
from urllib.parse import unquote, urlparse

from ganpo_core.data.flaws import Flaw, RowError
from ganpo_core.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class StoredImage:
    """Where the bytes of an image lie."""

    path: str | None
    """None for the store's own file."""
    start: int
    length: int
    digest: bytes
    """sha256 of its bytes."""
    size: tuple[int, int]
    """Pixels: width, height."""


@dataclass(frozen=True)
class PromptImages:
    """The images of one prompt, and how they become a model's inputs."""

    images: tuple[StoredImage, ...]
    text: str
    """The prompt as the processor is given it; "" where there are no images."""
    image_token_id: int
    """Of the tokens at which the model puts what it sees."""
    token_types: Mapping[str, str]
    """Arguments of the model that say of every token what it is: 1 on `image` or on `response` tokens."""
    process: Callable[[str, tuple[StoredImage, ...]], dict[str, Tensor]]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.images)

    @property
    def digest(self) -> bytes:
        """What tells them from others."""
        return b"".join(image.digest for image in self.images)

    def inputs(self) -> dict[str, Tensor]:
        """Pixels, and what belongs to them, as the processor makes them; {} without images."""
        return self.process(self.text, self.images) if self.images else {}


class ImageStore:
    """Images by where they lie: in files of the user's, or, if rows hold their bytes, in a file of the store's own."""

    def __init__(self) -> None:
        self._end = 0
        self._file: int | None = None

    def add(self, value: object, folder: Path | None) -> StoredImage:
        """Decode an image once, and remember where it is. Raises RowError for one that is missing or broken."""
        path, content = _found(value, folder)
        image = decoded(content)
        digest = sha256(content).digest()
        if path is not None:
            return StoredImage(str(path), 0, len(content), digest, image.size)
        stored = StoredImage(None, self._end, len(content), digest, image.size)
        self._end += os.pwrite(self._own_file(), content, self._end)
        return stored

    def read(self, image: StoredImage) -> Image:
        """The image, as RGB. Raises RowError where its file has changed since."""
        if image.path is None:
            return decoded(os.pread(self._own_file(), image.length, image.start))
        content = _read(Path(image.path))
        if sha256(content).digest() != image.digest:
            raise RowError(Flaw.BROKEN_IMAGE, f"{image.path} has changed since the run began")
        return decoded(content)

    def _own_file(self) -> int:
        if self._file is None:
            # Without a name: the system frees it when the last process that holds it ends.
            with tempfile.TemporaryFile() as file:
                self._file = os.dup(file.fileno())
        return self._file

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


def decoded(content: bytes) -> Image:
    """An image of these bytes, upright and RGB. Raises RowError where they are not a whole image."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged tags, which name no row
            # More pixels than any photograph: a file that is made to fill the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _upright(Image.open(BytesIO(content)))
    except Exception as error:  # of any kind: each format has a reader of its own, and broken files reach all of its corners
        reason = first_line(error).split(" <")[0]
        raise RowError(Flaw.BROKEN_IMAGE, f"an image cannot be decoded: {reason}") from error


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    image.load()
    return ImageOps.exif_transpose(image).convert("RGB")


def _found(value: object, folder: Path | None) -> tuple[Path | None, bytes]:
    """(its path, its bytes); no path where the row holds the bytes."""
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        return (None, bytes(content)) if content is not None else _found(path, folder)
    if isinstance(value, bytes | bytearray):
        return None, bytes(value)
    if isinstance(value, str | Path):
        path = _local(str(value), folder)
        return path, _read(path)
    if value is None:
        raise RowError(Flaw.MISSING_IMAGE, "an image is null")
    if _is_pil(value):
        return None, _encoded(value)
    raise RowError(
        Flaw.WRONG_TYPE, f"an image is of type {type(value).__name__}; give a path, bytes, a PIL image or a file:// URL"
    )


def _is_pil(value: object) -> TypeGuard[Image]:
    from PIL import Image

    return isinstance(value, Image.Image)


def _encoded(image: Image) -> bytes:
    """A PIL image as a file: RGB, since PNG has no place for every mode. Raises RowError where its own file is broken."""
    buffer = BytesIO()
    try:
        _upright(image).save(buffer, format="PNG")
    except Exception as error:  # opened, and not yet read
        raise RowError(Flaw.BROKEN_IMAGE, f"an image cannot be decoded: {error}") from error
    return buffer.getvalue()


def _local(text: str, folder: Path | None) -> Path:
    url = urlparse(text)
    if url.scheme in ("http", "https", "ftp", "s3", "gs", "hf", "data"):
        raise RowError(
            Flaw.REMOTE_IMAGE,
            f"{text[:80]}: images are read from this machine alone, so that a run does not depend on a server; "
            "download it, and give its path",
        )
    path = Path(unquote(url.path)) if url.scheme == "file" else Path(text).expanduser()
    if path.is_absolute():
        return path
    if folder is None:
        raise RowError(Flaw.MISSING_IMAGE, f"{text}: relative to nothing, since the rows come from no file here")
    return (folder / path).absolute()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RowError(Flaw.MISSING_IMAGE, f"{path}: {error.strerror or error}") from error
