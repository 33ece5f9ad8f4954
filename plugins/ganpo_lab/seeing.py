"""The reference that sees: a small LLaVA taught by the imperfect writer, its processor, and pairs with pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ganpo_lab.picture import CELL, SIDE, SeenRequest, as_image, as_pixels, see
from ganpo_lab.preferences import FILES, PreferenceRecipe, agreement, draw_pairs
from ganpo_lab.reference import ID, IDENTITY, ReferenceRecipe, is_made_from, make_tokenizer, taught_batch, text_config
from ganpo_lab.world import EOS, IMAGE, Request, Split, draw_requests
from ganpo_lab.writer import write

if TYPE_CHECKING:
    from transformers import LlavaProcessor

FIRST = {"train": 0, "dev": 1_000_000, "test": 2_000_000}
"""Numbers of the pictures of each split: no picture is in two."""
TAUGHT = 3_000_000
"""Of the first picture that the reference learns from."""


@dataclass(frozen=True)
class SeeingRecipe(ReferenceRecipe):
    """Size and training of the reference that sees."""

    steps: int = 700
    tower_size: int = 64
    tower_layers: int = 2


def make_seeing_reference(recipe: SeeingRecipe, folder: Path, advance: Callable[[int, float], None]) -> bool:
    """Train the reference into `folder` unless it is there already; `advance(step, loss)` follows. True if trained."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    made_from = {**asdict(recipe), "torch": version("torch"), "transformers": version("transformers"), "sees": True}
    if is_made_from(folder, made_from):
        return False
    torch.manual_seed(recipe.seed)
    draw = Random(recipe.seed)
    vision = CLIPVisionConfig(
        hidden_size=recipe.tower_size,
        intermediate_size=2 * recipe.tower_size,
        num_hidden_layers=recipe.tower_layers,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=CELL,
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=text_config(recipe, vocab_size=len(ID)),
            vision_config=vision,
            image_token_id=ID[IMAGE],
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            tie_word_embeddings=True,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps)
    for step in range(recipe.steps):
        requests = see(draw_requests("train", recipe.batch_size, draw), TAUGHT + step * recipe.batch_size)
        ids, labels = taught_batch([(request, write(request, draw)) for request in requests])
        loss = model(input_ids=ids, labels=labels, pixel_values=as_pixels(requests)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        advance(step + 1, loss.item())
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    (folder / IDENTITY).write_text(json.dumps(made_from, indent=1), encoding="utf-8")
    return True


def make_processor() -> LlavaProcessor:
    """The world's words, one more for a cell of a picture, and pixels from -1 to 1."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    size = {"height": SIDE, "width": SIDE}
    pixels = CLIPImageProcessorPil(
        size=size, crop_size=size, do_resize=False, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        pixels, tokenizer, patch_size=CELL, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def look(requests: Sequence[Request]) -> dict[str, Tensor]:
    """What a model is given beside the tokens of these prompts."""
    return {"pixel_values": as_pixels(cast("Sequence[SeenRequest]", requests))}


def swapped(requests: Sequence[Request]) -> dict[str, Tensor]:
    """The same with every picture moved on by one prompt: the control."""
    return look([*requests[1:], requests[0]])


def make_seen_preferences(
    recipe: PreferenceRecipe, reference: Path, folder: Path, load: Callable[[Path], Any]
) -> dict[str, float]:
    """Write pairs and their pictures unless they are there already; returns what `make_preferences` does."""
    identity: dict[str, object] = {
        **asdict(recipe), "sees": True, "reference": json.loads((reference / IDENTITY).read_text(encoding="utf-8"))
    }
    if not is_made_from(folder, identity):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "pictures").mkdir(parents=True)
        model = load(reference)
        counts: dict[Split, int] = {"train": recipe.num_prompts, "dev": recipe.num_held_out}
        for split, count in counts.items():
            draw = Random(f"{recipe.seed}-{split}")
            requests = see(draw_requests(split, count, draw), FIRST[split])
            rows = []
            for request, row in draw_pairs(recipe, model, requests, draw, look):
                assert isinstance(request, SeenRequest)
                name = f"pictures/{request.number}.png"
                as_image(request).save(folder / name)
                rows.append({**row, "prompt": request.written, "image": name, "keys": request.keys, "seed": request.seed})
            (folder / FILES[split]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / IDENTITY).write_text(json.dumps(identity, indent=1), encoding="utf-8")
    return agreement(folder)


def seen_held_out(folder: Path) -> list[tuple[Request, list[str]]]:
    """The chosen answers to held-out prompts."""
    rows = [json.loads(line) for line in (folder / FILES["dev"]).read_text(encoding="utf-8").splitlines()]
    return [
        (SeenRequest(tuple(row["keys"]), row["seed"], int(Path(row["image"]).stem)), [*row["chosen"].split(), EOS])
        for row in rows
    ]


def load_seeing(folder: Path) -> Any:
    """A policy for sampling."""
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForImageTextToText.from_pretrained(folder).eval()
