"""What a plan says of images, beside what the model itself does with the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText
from vision_families import FAMILIES, save_family, write_rows

from ganpo_core.config import load_run
from ganpo_core.data import load_pairs
from ganpo_core.models import load_processor
from ganpo_core.plan import Lengths, plan_run
from ganpo_core.plan.measure import saved_bytes
from ganpo_core.vision import image_features, part_names

COUNTS = (0, 1, 2, 0)


def run_of(folder: Path, name: str, **model: Any) -> dict[str, Any]:
    path = folder / "model"
    if not path.is_dir():
        save_family(name, path)
        write_rows(folder, COUNTS, chat=FAMILIES[name][1] is not None)
    return {
        "model": {"path": str(path), **model}, "data": {"path": str(folder / "pairs.jsonl")}, "objective": {"use": "dpo"},
        "training": {"learning_rate": 1e-3, "max_steps": 1, "per_device_train_batch_size": 2}, "output_dir": str(folder / "out"),
    }


def prompts_of(run: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    config = load_run(run)
    processor = load_processor(config.model)
    assert processor is not None
    pairs, _ = load_pairs(config.data, processor.tokenizer, processor)
    return [pair.images.inputs() for pair in pairs if pair.images is not None and pair.images.count]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "smolvlm"])
@pytest.mark.parametrize("frozen", [(), ("vision_tower",), ("vision_tower", "projector")], ids=len)
def test_flops_of_images_are_those_that_are_counted_while_the_model_sees(
    name: str, frozen: tuple[str, ...], tmp_path: Path
) -> None:
    """Four prompts with 0, 1, 2 and 0 images: a mean pair has those of all, over 4; twice where prompts are not shared."""
    run = run_of(tmp_path, name, freeze=list(frozen))
    plan = plan_run(load_run(run))
    times = 1 if plan.layout == "shared" else 2
    assert plan.layout == ("shared" if name in ("llava", "smolvlm") else "padded")
    model = AutoModelForImageTextToText.from_pretrained(run["model"]["path"])
    prompts = prompts_of(run)
    parts = part_names(model, prompts[0])
    weights = dict(model.named_parameters())
    trained = [weights[weight] for part in ("vision_tower", "projector") if part not in frozen for weight in parts[part]]
    for weight in weights.values():
        weight.requires_grad_(any(weight is other for other in trained))
    forward = backward = 0
    for inputs in prompts:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as looking:
            found = image_features(model, inputs).pooler_output
        given = found if isinstance(found, torch.Tensor) else torch.cat([part.flatten(0, -2) for part in found])
        forward += looking.get_total_flops()
        if trained:
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as learning:
                torch.autograd.grad(given.sum(), trained, allow_unused=True)
            backward += learning.get_total_flops()
    assert forward > 0
    assert plan.work.parts["policy images forward"] == pytest.approx(times * forward / 4)
    assert plan.work.parts["policy images backward"] == pytest.approx(times * backward / 4)
    counted = sum(weight.numel() for name, weight in weights.items() if name in parts["language_model"])
    assert plan.shape.trainable == counted + sum(weight.numel() for weight in trained)


def test_the_passes_over_images_are_those_of_policy_and_reference(tmp_path: Path) -> None:
    """DPO reads the reference, SimPO does not; with checkpoints the policy's images are passed again."""
    run = run_of(tmp_path, "llava")
    dpo, simpo = (plan_run(load_run({**run, "objective": {"use": use}})).work.parts for use in ("dpo", "simpo"))
    seen = dpo["policy images forward"]
    assert "reference forward" not in simpo
    assert dpo["reference forward"] == pytest.approx(dpo["policy forward"] + seen)
    again = plan_run(load_run({**run, "training": {**run["training"], "gradient_checkpointing": True}})).work.parts
    assert again["recomputed activations"] == pytest.approx(dpo["policy forward"] + seen)


def test_memory_of_images_is_what_autograd_keeps_of_the_largest_prompt(tmp_path: Path) -> None:
    """Two pairs a micro-batch, shared prompts: twice what the prompt of two images keeps; nothing where all of it is frozen."""
    run = run_of(tmp_path, "llava")
    model = AutoModelForImageTextToText.from_pretrained(run["model"]["path"])
    largest = max(prompts_of(run), key=lambda inputs: len(inputs["pixel_values"]))
    saved, _ = saved_bytes(lambda: image_features(model, largest), [*model.parameters(), *model.buffers()])
    plan = plan_run(load_run(run))
    # Attention that is not computed is laid out in another way, which costs a copy.
    assert plan.memory.passing["activations of what sees"] == pytest.approx(2 * saved, rel=0.05)
    with_checkpoints = plan_run(load_run({**run, "training": {**run["training"], "gradient_checkpointing": True}}))
    assert 0 < with_checkpoints.memory.passing["activations of what sees"] < 2 * saved
    frozen = plan_run(load_run(run_of(tmp_path, "llava", freeze=["vision_tower", "projector"])))
    assert "activations of what sees" not in frozen.memory.passing


def test_weights_of_what_sees_are_no_work_for_tokens(tmp_path: Path) -> None:
    """The body is the language model's: 2 layers of q, k, v, o (16 x 16, 16 x 8, 16 x 8, 16 x 16) and three of 16 x 32. Known
    from the configuration alone."""
    run = run_of(tmp_path, "llava")
    for file in (tmp_path / "model").iterdir():
        if file.name != "config.json":
            file.unlink()
    plan = plan_run(load_run(run), Lengths.assumed(4, 3))
    assert plan.shape.body == 2 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 32)
    assert "policy images forward" not in plan.work.parts
