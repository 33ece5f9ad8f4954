"""Latents of what a model sees: what must be known, and what must hold, before the first step."""

from __future__ import annotations

from dataclasses import replace

import torch

from ganpo_core.components import LatentExtractor
from ganpo_core.config import RunConfig
from ganpo_core.data import PairBatch, PairDataset, collate
from ganpo_core.errors import ConfigError, DataError
from ganpo_core.forward import response_pass
from ganpo_core.forward.images import UnplacedStatesError, is_of_images
from ganpo_core.models import Models
from ganpo_core.types import ImageFeatures, Source


def prepare_image_latents(config: RunConfig, models: Models, pairs: PairDataset) -> None:
    """Note how wide the states of images are, in `models.image_widths`.

    Raises ConfigError for latents that training cannot move or that have no place among the tokens, and where latents of
    images find none, ConfigError or DataError. A pass of the policy over pairs with images of unlike shapes tells; without
    images nothing is run.
    """
    policy, seen = models.policy, pairs.with_images
    sources = {plan.name: plan.latents.sources(policy) for plan in config.adversaries}
    if not seen:
        for plan in config.adversaries:
            _check_without_images(plan.name, plan.latents, sources[plan.name], models, pairs)
        return
    every = tuple(dict.fromkeys(source for found in sources.values() for source in found))
    if not every:
        return
    for index in _unlike(pairs, seen):
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            try:
                states = response_pass(models.run_policy, policy, _first(pairs, index, models), every, logps=False).states
            except UnplacedStatesError as error:
                names = ", ".join(f"'{name}'" for name, found in sources.items() if error.source in found)
                raise ConfigError(f"adversary {names}: {error}") from error
    of_images = [source for source in every if is_of_images(source, policy)]
    models.image_widths = {source: states[source].shape[-1] for source in of_images}
    for name, found in sources.items():
        if not any(states[source].requires_grad for source in found):
            raise ConfigError(
                f"adversary '{name}': its latents come from a frozen part of the model, so the policy's can never differ "
                "from the reference's; train that part (model.freeze, model.lora.vision), or read states that come "
                "after something trained, such as image positions of the language model"
            )


def _unlike(pairs: PairDataset, seen: list[int]) -> list[int]:
    """Of the pairs with images, those with the tallest and the widest: where an image is cut into tiles, its shape decides
    how many there are, and how much of them is used."""

    def width_to_height(index: int) -> float:
        images = prompts[index]
        assert images is not None
        return sum(image.size[0] / image.size[1] for image in images.images) / images.count

    prompts = pairs.images
    return list({min(seen, key=width_to_height): None, max(seen, key=width_to_height): None})


def _check_without_images(
    name: str, extractor: LatentExtractor, sources: tuple[Source, ...], models: Models, pairs: PairDataset
) -> None:
    tokens = _first(pairs, 0, models).tokens
    with_images = replace(tokens, image=tokens.prompt)
    waits = not extractor.selected(tokens).any() and bool(extractor.selected(with_images).any())
    if not waits and not any(isinstance(source, ImageFeatures) for source in sources):
        return
    if models.processor is None:
        raise ConfigError(f"adversary '{name}': its latents are of images, and the model reads text alone")
    raise DataError(f"data: no prompt holds an image, and the latents of adversary '{name}' are of images")


def _first(pairs: PairDataset, index: int, models: Models) -> PairBatch:
    return collate([pairs[index]], models.tokenizer.pad_token_id).to(models.device)
