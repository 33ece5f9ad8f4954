"""Pairs whose prompts hold images become token ids: the model's own processor puts the images' tokens in."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganpo_core.data.flaws import Flaw, RowError
from ganpo_core.data.formats import ChatPair, Row, TextPair
from ganpo_core.data.images import ImageStore, PromptImages, StoredImage
from ganpo_core.data.placeholders import place_images
from ganpo_core.data.render import Rendered, render_chat
from ganpo_core.data.tokenize import Ids, PairTokenizer
from ganpo_core.errors import ConfigError
from ganpo_core.vision import IN_TENSORS, TOKEN_TYPES, image_token_id, pixels, tried

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import ProcessorMixin

NO_LABEL = -100
"""What transformers puts in `labels` for tokens of the prompt."""


class ImagePairTokenizer(PairTokenizer):
    """A processor, with what must be known of it to tokenize preference pairs with images."""

    sees_images = True

    def __init__(self, processor: ProcessorMixin) -> None:
        super().__init__(processor.tokenizer)
        self.processor = processor
        self.store = ImageStore()
        self.placeholder = str(processor.image_token)
        self.image_token_id = image_token_id(processor)
        # The tokens of an image depend on its size alone: its pixels are made when a batch needs them.
        self._by_size: Any = copy.copy(processor)
        self._by_size.image_processor = _BySize(processor.image_processor)
        self.token_types = self._find_token_types()

    def with_images(self, pair: TextPair | ChatPair, row: Row, folder: Path | None) -> TextPair | ChatPair:
        placed = place_images(pair, row)
        return replace(placed, images=tuple(self.store.add(image, folder) for image in placed.images))

    def render(self, pair: TextPair | ChatPair, where: str) -> Rendered:
        images = tuple(image for image in pair.images if isinstance(image, StoredImage))
        if isinstance(pair, ChatPair):
            rendered = render_chat(self.tokenizer, pair, self.special_texts, where, self.processor)
        else:
            rendered = super().render(self._with_placeholders(pair), where)
        for side in (rendered.chosen, rendered.rejected):
            if self.placeholder in side[len(rendered.prompt) :]:
                raise RowError(Flaw.IMAGE_IN_RESPONSE, f"a response holds {self.placeholder}, the place of an image")
        prompt, *sides = (self._encode(text, images, rendered.is_chat) for text in _texts(rendered))
        made = self.split(rendered, prompt, *sides)
        if self.image_token_id in (*made.chosen, *made.rejected):
            raise RowError(Flaw.IMAGE_IN_RESPONSE, f"a response holds {self.placeholder}, the place of an image")
        if not images and self.image_token_id in made.prompt:
            raise RowError(Flaw.IMAGE_COUNT, f"the prompt holds {self.placeholder}, and the row has no image")
        text = rendered.prompt if images else ""
        found = PromptImages(images, text, self.image_token_id, self.token_types, self._process)
        return replace(rendered, tokenized=replace(made, images=found))

    def _with_placeholders(self, pair: TextPair) -> TextPair:
        """Images come before a prompt of plain text that does not say where they are."""
        written = pair.prompt.count(self.placeholder)
        if written not in (0, len(pair.images)):
            raise RowError(
                Flaw.IMAGE_COUNT,
                f"the prompt has {self.placeholder} {written} times, and the row has {len(pair.images)} images",
            )
        missing = len(pair.images) - written
        return replace(pair, prompt=self.placeholder * missing + pair.prompt)

    def _encode(self, text: str, images: Sequence[StoredImage], is_chat: bool) -> Ids:
        # As the processor's own chat templates are read: a template that writes no first token leaves it to the tokenizer.
        bos = self.tokenizer.bos_token
        special = not (is_chat and bos is not None and text.startswith(bos))
        if not images:
            ids = self._plain_ids([text], special)[0]
        else:
            blanks = [[_grey(image.size) for image in images]]
            try:
                made = self._by_size(text=[text], images=blanks, add_special_tokens=special, **IN_TENSORS)
            except (ValueError, TypeError, KeyError, IndexError, StopIteration) as error:
                raise RowError(Flaw.REFUSED_BY_PROCESSOR, f"the processor refuses it: {error}") from error
            ids = [int(token) for token in made["input_ids"][0]]
        return ids[:-1] if special and self.adds_eos else ids

    def _process(self, text: str, images: tuple[StoredImage, ...]) -> dict[str, Tensor]:
        """What the model is given of one prompt's images."""
        return pixels(self.processor, text, [self.store.read(image) for image in images])

    def _find_token_types(self) -> Mapping[str, str]:
        """Which tokens the processor marks, seen on a prompt with an image and, where it takes one, a response.

        Raises ConfigError for marks of anything but the image or the response.
        """
        responds = "suffix" in signature(type(self.processor).__call__).parameters
        response = {"suffix": ["a"]} if responds else {}
        made = tried(self.processor, **response)
        known = {"image": [int(token == self.image_token_id) for token in made["input_ids"][0]]}
        if responds:
            known["response"] = [int(label != NO_LABEL) for label in made["labels"][0]]
        found = {}
        for name in TOKEN_TYPES:
            types = [int(kind) for kind in made[name][0]] if name in made else []
            if not any(types):
                continue
            kinds = [kind for kind, marked in known.items() if marked == types]
            if not kinds:
                raise ConfigError(
                    f"model.path: the {name} of {type(self.processor).__name__} mark neither the tokens of images nor those of "
                    "responses, and what else they mark is not known here"
                )
            found[name] = kinds[0]
        return found


class _BySize:
    """An image processor that does its work once for images of the same sizes, and keeps the shapes alone."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._known: dict[object, dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, images: Any, **options: Any) -> dict[str, Any]:
        key = (_sizes(images), repr(sorted(options.items(), key=str)))
        if key not in self._known:
            self._known[key] = {name: _hollow(value) for name, value in self._inner(images, **options).items()}
        return dict(self._known[key])


def _sizes(images: Any) -> object:
    return tuple(map(_sizes, images)) if isinstance(images, list | tuple) else images.size


def _hollow(value: Any) -> Any:
    """Tensors as large as these that take no memory; counts and sizes as they are."""
    import torch

    if not isinstance(value, torch.Tensor) or value.dim() < (2 if value.is_floating_point() else 3):
        return value
    return value.new_zeros(()).expand(value.shape)


def _grey(size: tuple[int, int]) -> Any:
    """An image of which only the size matters."""
    from PIL import Image

    return Image.new("RGB", size, (128, 128, 128))


def _texts(rendered: Rendered) -> tuple[str, str, str]:
    return rendered.prompt, rendered.chosen, rendered.rejected
