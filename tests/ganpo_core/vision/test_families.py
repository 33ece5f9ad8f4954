"""Families that see, tiny and random: what they are given, what they compute of it, and in which layouts."""

from __future__ import annotations

import dataclasses
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BatchFeature
from vision_families import FAMILIES, UNLISTED
from vision_runs import COUNTS, RunOf, assembled

from ganpo_core.data import PairBatch, collate
from ganpo_core.doctor import examine
from ganpo_core.errors import ConfigError
from ganpo_core.forward import response_pass
from ganpo_core.models import load_processor
from ganpo_core.run import Run
from ganpo_core.types import ImageFeatures, Layer

NAMES = list(FAMILIES)
IN_TENSORS = {"images_kwargs": {"return_tensors": "pt"}}
"""Some processors need tensors of images, and some warn of tensors of tokens."""
PACKED = {"llava", "smolvlm", "idefics3", "internvl", "llava_next", "ovis2"}
"""Causal, with positions of one dimension: these can be packed."""


@pytest.mark.parametrize("name", [*NAMES, *UNLISTED])
def test_log_probabilities_are_those_of_the_models_own_forward(name: str, run_of: RunOf) -> None:
    """Rows with 0, 1 and 3 images in one ragged batch, in the layout that the run chose; each row by itself on the other side."""
    run = assembled(run_of(name, model={"path": run_of(name)["model"]["path"], "dtype": "float64"}))
    assert (run.plan.packing == "shared") == (name in PACKED)
    batch = run.batch(run.pairs, [0, 1, 2, 3])
    found = response_pass(run.models.policy, run.models.policy, batch, head=run.plan.head).logps
    assert found is not None
    processor, model = load_processor(run.config.model), run.models.policy.eval()
    texts, images = own_rows(run, batch)
    for row, side in ((row, side) for row in range(4) for side in ("chosen", "rejected")):
        pair = run.pairs[row]
        expected = own_logps(model, processor, texts[row], images[row], [*pair.prompt], [*getattr(pair, side)])
        logps = getattr(found, side)
        assert torch.allclose(logps.logps[row][logps.mask[row]], expected, atol=1e-5, rtol=0)


def own_rows(run: Run, batch: PairBatch) -> tuple[list[str], list[list[Any]]]:
    """The rendered prompts and decoded images of the batch's first rows."""
    held = [run.pairs[row].images for row in range(batch.num_pairs)]
    assert all(images is not None for images in held)
    folder = Path(run.config.data.path or "").parent / "pictures"
    from PIL import Image

    texts = [images.text for images in held if images is not None]
    return texts, [
        [Image.open(folder / f"{row}_{index}.png").convert("RGB") for index in range(COUNTS[row])] for row in range(len(texts))
    ]


def own_logps(model: Any, processor: Any, text: str, images: list[Any], prompt: list[int], response: list[int]) -> Tensor:
    """What transformers gives for one row: the processor's own inputs with the response's tokens appended."""
    ids = torch.tensor([[*prompt, *response]])
    inputs: dict[str, Any] = {}
    if images:
        bos = processor.tokenizer.bos_token
        made = processor(text=[text], images=[images], add_special_tokens=not text.startswith(bos), **IN_TENSORS)
        made = BatchFeature({key: value for key, value in made.items() if key != "labels"}, tensor_type="pt")
        assert made["input_ids"][0].tolist() == prompt
        taken = signature(model.forward).parameters
        inputs = {key: value for key, value in made.items() if key in taken and key not in ("input_ids", "attention_mask")}
        for key in ("token_type_ids", "mm_token_type_ids"):
            if key in inputs:
                # What follows a prefix is 1, what is no image is 0.
                follows = int(key == "token_type_ids" and not inputs[key].any())
                inputs[key] = torch.cat([inputs[key], torch.full((1, len(response)), follows)], dim=1)
        inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    elif "PaliGemma" in type(model).__name__:
        inputs["token_type_ids"] = torch.tensor([[0] * len(prompt) + [1] * len(response)])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]


@pytest.mark.parametrize("name", [*NAMES, *UNLISTED])
def test_image_masks_count_what_the_processor_inserted(name: str, run_of: RunOf) -> None:
    """LLaVA and PaliGemma: 16 tokens an image; Gemma, Idefics and Ovis 4; SmolVLM and InternVL 4 a tile; Qwen one for each
    8 x 8 pixels of what it resizes to."""
    run = assembled(run_of(name))
    batch = run.batch(run.pairs, list(range(6)))
    assert batch.tokens.image is not None
    processor = load_processor(run.config.model)
    texts, images = own_rows(run, batch)
    expected = [
        processor(text=[texts[row]], images=[images[row]], **IN_TENSORS)["input_ids"][0].count(image_id(run))
        if COUNTS[row] else 0
        for row in range(6)
    ]
    assert batch.tokens.image.sum(1).tolist() == expected * 2
    assert not (batch.tokens.image & batch.tokens.response).any()
    each = {"llava": 16, "paligemma": 16, "gemma3": 4, "idefics3": 4, "ovis2": 4}.get(name)
    assert each is None or expected == [count * each for count in COUNTS]


def image_id(run: Run) -> int:
    return int(run.models.policy.config.image_token_id)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_permuting_images_changes_the_image_latents_of_those_rows_and_nothing_of_others(
    name: str, run_of: RunOf
) -> None:
    """Rows 1 and 3 have one image each: given each other's, their image states swap with them; rows 0 and 2 keep theirs."""
    # Both of one size, so that the tokens stay what they are.
    run = assembled(run_of(name))
    pairs = [run.pairs[row] for row in (0, 1, 2, 3)]
    one, two = pairs[1].images, pairs[3].images
    assert one is not None and two is not None
    sources = (ImageFeatures("tower"), ImageFeatures("projector"), Layer(0), Layer(-1))
    swapped = [
        pairs[0], dataclasses.replace(pairs[1], images=dataclasses.replace(one, images=two.images)),
        pairs[2], dataclasses.replace(pairs[3], images=dataclasses.replace(two, images=one.images)),
    ]
    pad = run.models.tokenizer.pad_token_id
    model = run.models.policy.eval()
    with torch.no_grad():
        before, after = (
            response_pass(model, model, collate(rows, pad, run.plan.packing), sources) for rows in (pairs, swapped)
        )
    batch = collate(pairs, pad)
    image_NS, valid_NS = batch.tokens.image, batch.tokens.valid
    assert image_NS is not None
    for source in sources:
        gap_NS = (before.captured[source] - after.captured[source]).abs().amax(-1)
        for row in range(8):
            if row % 4 in (1, 3):
                assert (gap_NS[row][image_NS[row]] > 1e-4).all()
            else:
                assert gap_NS[row][valid_NS[row]].amax() < 1e-6
    first = ImageFeatures("projector")
    assert torch.allclose(before.captured[first][1][image_NS[1]], after.captured[first][3][image_NS[3]], atol=1e-5)


@pytest.mark.parametrize(("name", "said"), [
    ("gemma3", "attends in both directions within images or prompts"),
    ("paligemma", "attends in both directions within images or prompts"),
    ("qwen2_5_vl", "gives images positions of several dimensions"),
])
def test_what_cannot_be_packed_is_padded_and_said(name: str, said: str, run_of: RunOf) -> None:
    run = assembled(run_of(name))
    assert run.plan.packing == "padded"
    assert [note for note in run.notes if note.startswith("training.packing: padded rows") and said in note]
    with pytest.raises(ConfigError, match=r"training\.packing: shared is not possible here"):
        assembled(run_of(name), "training.packing=shared")


@pytest.mark.parametrize("name", sorted(PACKED))
@pytest.mark.parametrize("single", [False, True])
def test_every_layout_gives_the_same_of_images(name: str, single: bool, run_of: RunOf) -> None:
    """Log-probabilities and the states of images of pairs and of single responses, in each layout."""
    run = assembled(run_of(name))
    pairs = run.pairs[:5]
    if single:
        pairs = [dataclasses.replace(pair, **{side: ()}) for pair, side in zip(pairs, ("chosen", "rejected") * 3, strict=False)]
    tower = () if name == "llava_next" else (ImageFeatures("tower"),)  # its tiles have no place among the tokens
    sources, model = (*tower, ImageFeatures("projector"), Layer(-1)), run.models.policy
    found = {
        packing: response_pass(model, model, collate(pairs, 0, packing), sources, head=run.plan.head)  # type: ignore[arg-type]
        for packing in ("padded", "packed", "shared")
    }
    expected = found.pop("padded")
    assert expected.logps is not None
    for other in found.values():
        assert other.logps is not None
        for side in ("chosen", "rejected"):
            mine, theirs = getattr(other.logps, side), getattr(expected.logps, side)
            assert torch.allclose(mine.whole, theirs.whole, atol=1e-4)
        for source in sources:
            valid = collate(pairs, 0).tokens.valid
            assert torch.allclose(other.captured[source][valid], expected.captured[source][valid], atol=1e-4)


@pytest.mark.parametrize("name", ["paligemma", "qwen2_5_vl"])
def test_the_doctor_finds_models_that_see_sound(name: str, run_of: RunOf) -> None:
    findings = list(examine(assembled(run_of(name))))
    assert [finding.line() for finding in findings if not finding.ok] == []
