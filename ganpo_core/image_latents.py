"""Latents of what a model sees: what must be known, and what must hold, before the first step."""

from __future__ import annotations

import torch
from torch import nn

from ganpo_core.config import RunConfig
from ganpo_core.data import PairDataset, collate
from ganpo_core.errors import ConfigError, DataError
from ganpo_core.forward import response_pass
from ganpo_core.models import Models, base_model
from ganpo_core.types import ImageFeatures, Layer, Module, Source


def prepare_image_latents(config: RunConfig, models: Models, pairs: PairDataset) -> None:
    """Note how wide the states of images are, in `models.image_widths`.

    Raises ConfigError for latents that training cannot move, DataError for latents of images where there are none. One
    pass of the policy over a pair with an image tells; nothing is run where no latents are read.
    """
    policy = models.policy
    sources = {plan.name: plan.latents.sources(policy) for plan in config.adversaries}
    every = tuple(dict.fromkeys(source for found in sources.values() for source in found))
    of_images = [source for source in every if not _of_language(source, base_model(policy))]
    seen = pairs.with_images
    if not every or not (seen or of_images):
        return
    if not seen:
        raise DataError("data: no prompt holds an image, and the latents are of images; read those of text")
    batch = collate([pairs[seen[0]]], models.tokenizer.pad_token_id).to(models.device)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        states = response_pass(models.run_policy, policy, batch, every, logps=False).states
    models.image_widths = {source: states[source].shape[-1] for source in of_images}
    for name, found in sources.items():
        if not any(states[source].requires_grad for source in found):
            raise ConfigError(
                f"adversary '{name}': its latents come from a frozen part of the model, so the policy's can never differ "
                "from the reference's; train that part (model.freeze, model.lora.vision), or read states that come "
                "after something trained, such as image positions of the language model"
            )


def _of_language(source: Source, base: nn.Module) -> bool:
    """Whether a source is read from the language model, which runs without images too."""
    if isinstance(source, Layer | ImageFeatures):
        return isinstance(source, Layer)
    assert isinstance(source, Module)
    decoder, modules = base.get_decoder(), dict(base.named_modules())  # type: ignore[operator]
    # A name that the model does not have is the capture's to refuse.
    return source.path not in modules or any(modules[source.path] is inner for inner in decoder.modules())
