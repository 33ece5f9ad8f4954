"""Pairs as plain data and tensors, to be read again where the files that they came from are gone or have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ganpo_core.data.dataset import TokenPair
from ganpo_core.data.images import PromptImages, StoredImage

if TYPE_CHECKING:
    from torch import Tensor


def to_plain(pairs: Sequence[TokenPair]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """(pairs, what the model is given of their images): token ids and numbers, no text. Raises RowError where an image
    cannot be read any more."""
    rows, tensors = [], dict[str, Any]()
    for place, pair in enumerate(pairs):
        row: dict[str, Any] = {
            "prompt": list(pair.prompt),
            "chosen": list(pair.chosen),
            "rejected": list(pair.rejected),
            "source": pair.source,
            "row": pair.row,
            "preference": pair.preference,
        }
        if (images := pair.images) is not None:
            row["images"] = {
                "image_token_id": images.image_token_id,
                "token_types": dict(images.token_types),
                "images": [{"digest": image.digest.hex(), "size": list(image.size)} for image in images.images],
            }
            tensors |= {f"{place}.{name}": value for name, value in images.inputs().items()}
        rows.append(row)
    return rows, tensors


def from_plain(rows: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> list[TokenPair]:
    """The pairs of `to_plain`; their images are known by what the model is given of them alone."""
    inputs: list[dict[str, Tensor]] = [{} for _ in rows]
    for key, value in tensors.items():
        place, _, name = key.partition(".")
        inputs[int(place)][name] = value
    return [
        TokenPair(**{**row, "images": _images(row["images"], own) if "images" in row else None})
        for row, own in zip(rows, inputs, strict=True)
    ]


def _images(row: Mapping[str, Any], inputs: dict[str, Tensor]) -> PromptImages:
    def process(_text: str, _images: tuple[StoredImage, ...]) -> dict[str, Tensor]:
        return dict(inputs)

    images = tuple(
        StoredImage(None, 0, 0, bytes.fromhex(image["digest"]), (image["size"][0], image["size"][1])) for image in row["images"]
    )
    return PromptImages(images, "", row["image_token_id"], row["token_types"], process)
