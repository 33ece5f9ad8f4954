"""What of a model sees, what of it is trained, and which latents and settings are refused for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule
from vision_families import FAMILIES, save_family, write_rows
from vision_runs import COUNTS, RunOf, assembled, critic

from ganpo_core.config import load_run
from ganpo_core.errors import ConfigError, DataError
from ganpo_core.parallel import parallelize
from ganpo_core.vision import part_names

NAMES = list(FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_a_model_are_told_apart_and_frozen(name: str, run_of: RunOf) -> None:
    """Every weight belongs to exactly one part; what is frozen does not train, and the tower's states do not need the
    projector."""
    path = run_of(name)["model"]["path"]
    run = assembled(run_of(name, model={"path": path, "freeze": ["vision_tower", "projector"]}))
    policy = run.models.policy
    parts = part_names(policy.requires_grad_(True), run.pairs[1].images.inputs())  # type: ignore[union-attr]
    every = [weight for names in parts.values() for weight in names]
    assert sorted(every) == sorted(weight for weight, _ in policy.named_parameters())
    assert all(parts.values())
    assert not any("language" in weight or "text_model" in weight for weight in parts["vision_tower"] + parts["projector"])
    assert any("merger" in weight or "projector" in weight or "connector" in weight for weight in parts["projector"])
    run = assembled(run_of(name, model={"path": path, "freeze": ["vision_tower", "projector"]}))
    assert set(run.models.trainable()) == set(parts["language_model"])
    run = assembled(run_of(name, model={"path": path, "freeze": ["language_model"]}))
    assert set(run.models.trainable()) == {*parts["vision_tower"], *parts["projector"]}


@pytest.mark.parametrize("name", NAMES)
def test_adapters_go_into_the_language_model_unless_more_is_asked_for(
    name: str, run_of: RunOf
) -> None:
    path = run_of(name)["model"]["path"]
    inside, everywhere = (
        set(assembled(run_of(name, model={"path": path, "lora": {"r": 2, "vision": vision}})).models.trainable())
        for vision in (False, True)
    )
    assert inside < everywhere
    assert all("language_model" in weight or "text_model" in weight for weight in inside)
    assert any("vis" in weight for weight in everywhere - inside)
    some = {"r": 2, "target_modules": ["q_proj"]}
    chosen = assembled(run_of(name, model={"path": path, "lora": some})).models.trainable()
    assert len(chosen) == 2 * 2  # two layers, two matrices each


@pytest.mark.parametrize(("model", "latents"), [
    ({"freeze": ["vision_tower"]}, "vision_tower"),
    ({"freeze": ["vision_tower", "projector"]}, "projector"),
    ({"lora": {"r": 2}}, "projector"),
])
def test_latents_of_a_frozen_part_are_refused_with_the_reason(
    model: dict[str, Any], latents: str, run_of: RunOf
) -> None:
    run = run_of("llava", adversaries=[critic("seen", latents, 1.0)])
    run["model"] = {**run["model"], **model}
    with pytest.raises(ConfigError, match="adversary 'seen': its latents come from a frozen part of the model"):
        assembled(run)


def test_a_cross_term_between_sides_that_share_their_images_is_refused(run_of: RunOf) -> None:
    item = critic("seen", "image_positions", 1.0)
    run = load_run(run_of("llava", adversaries=[item]))
    assert run.adversaries[0].cross_weight == 0.0
    assert "adversary 'seen': chosen and rejected share these latents, so the cross term is off (cross_weight 0)" in run.notes
    item["adversary"] = {"cross_weight": 0.5, "weight": item.pop("weight")}
    with pytest.raises(ConfigError, match="latents 'image_positions' are the same for chosen and rejected"):
        load_run(run_of("llava", adversaries=[item]))


def test_latents_of_images_need_images(run_of: RunOf, tmp_path: Path) -> None:
    rows = write_rows(tmp_path, (0, 0, 0))
    for latents in ("projector", "vision_tower", "image_positions", "cross_modal"):
        with pytest.raises(DataError, match="no prompt holds an image, and the latents of adversary 'seen' are of images"):
            assembled(run_of("llava", data={"path": str(rows)}, adversaries=[critic("seen", latents, 1.0)]))
    run = assembled(run_of("llava", data={"path": str(rows)}))
    assert run.plan.packing == "shared" and run.pairs.with_images == []


def test_a_model_of_text_has_no_parts_to_freeze(tiny_run: Callable[..., dict[str, Any]], tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.freeze: the model reads text alone"):
        assembled(tiny_run(model={"path": str(tiny_model), "freeze": ["projector"]}))


@pytest.fixture
def one_process() -> Iterator[None]:
    """A group of one, as a launcher makes it."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(("freeze", "said"), [
    ((), "fsdp2 shards gradients that every process has, and processes whose pairs hold no image have none of what sees"),
    (("vision_tower",), "keep it as it is"),
    (("vision_tower", "projector"), None),
])
@pytest.mark.usefixtures("one_process")
def test_fsdp2_shards_a_model_that_sees_only_where_what_sees_is_frozen(
    freeze: tuple[str, ...], said: str | None, run_of: RunOf
) -> None:
    models = assembled(run_of("llava", model={"path": run_of("llava")["model"]["path"], "freeze": list(freeze)})).models
    if said is None:
        parallelize(models, Accelerator(), "fsdp2")
        assert isinstance(models.policy, FSDPModule) and isinstance(models.reference, FSDPModule)
    else:
        with pytest.raises(ConfigError, match=said):
            parallelize(models, Accelerator(), "fsdp2")
        assert not isinstance(models.policy, FSDPModule)


@pytest.mark.parametrize("latents", ["vision_tower", "projector", "image_positions"])
def test_states_of_tiles_have_no_place_among_the_tokens(latents: str, run_of: RunOf, tmp_path: Path) -> None:
    """LLaVA-NeXT: 3 tiles of 16 states each, or 5, become 16 + 8 x 9 tokens and fewer: without padding, with ends of lines."""
    model = save_family("llava_next", tmp_path / "model")
    rows = write_rows(tmp_path, COUNTS, sizes=((8, 8), (24, 16)))
    run = run_of("llava", model={"path": str(model)}, data={"path": str(rows)}, adversaries=[critic("seen", latents, 1.0)])
    if latents == "vision_tower":
        with pytest.raises(ConfigError, match=r"adversary 'seen': the states of ImageFeatures.* cannot be brought to"):
            assembled(run)
    else:
        assert len(assembled(run).models.image_widths) == (latents == "projector")
