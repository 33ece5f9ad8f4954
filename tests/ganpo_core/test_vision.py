"""Five families that see, tiny and random: what they are given, and that a run of each trains, resumes and reloads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import BatchFeature
from vision_families import FAMILIES, save_family, write_rows

import ganpo_core
from ganpo_core.assemble import Run, assemble
from ganpo_core.config import load_run
from ganpo_core.data import PairBatch, collate
from ganpo_core.doctor import examine
from ganpo_core.errors import ConfigError, DataError
from ganpo_core.forward import response_pass
from ganpo_core.models import load_processor
from ganpo_core.types import ImageFeatures, Layer
from ganpo_core.vision import part_names

NAMES = list(FAMILIES)
PACKED = {"llava", "smolvlm"}
"""Causal, with positions of one dimension: these can be packed."""
COUNTS = (0, 1, 3, 1, 2, 0)


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """(model, rows) of a family, made once."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            sizes = ((8, 8), (24, 16))
            rows = write_rows(folder, COUNTS, chat=FAMILIES[name][1] is not None, sizes=sizes)
            made[name] = save_family(name, folder / "model"), rows
        return made[name]

    return get


@pytest.fixture
def run_of(families: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A run of a family as a mapping; keyword arguments replace whole sections."""

    def make(name: str, **sections: Any) -> dict[str, Any]:
        model, rows = families(name)
        return {
            "model": {"path": str(model)},
            "data": {"path": str(rows), "max_length": 200},
            "objective": {"use": "dpo"},
            "training": {
                "learning_rate": 1e-3, "max_steps": 5, "per_device_train_batch_size": 3, "logging_steps": 1, "save_steps": 2,
            },
            "output_dir": str(tmp_path / "out"),
            **sections,
        }

    return make


def assembled(run: dict[str, Any], *overrides: str) -> Run:
    return assemble(load_run(run, overrides), Accelerator())


def critic(name: str, latents: str, weight: float) -> dict[str, Any]:
    return {
        "name": name, "weight": weight, "latents": {"use": latents},
        "discriminator": {"use": "mlp", "hidden_dim": 8}, "divergence": {"use": "ragan"},
    }


TEXT_AND_IMAGE = [critic("text", "text_positions", 1.0), critic("image", "image_positions", 0.5)]


@pytest.mark.parametrize("name", NAMES)
def test_log_probabilities_are_those_of_the_models_own_forward(name: str, run_of: Callable[..., dict[str, Any]]) -> None:
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
        made = processor(text=[text], images=[images], add_special_tokens=not text.startswith(bos))
        made = BatchFeature({key: value for key, value in made.items() if key != "labels"}, tensor_type="pt")
        assert made["input_ids"][0].tolist() == prompt
        inputs = {key: value for key, value in made.items() if key not in ("input_ids", "attention_mask")}
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


@pytest.mark.parametrize("name", NAMES)
def test_image_masks_count_what_the_processor_inserted(name: str, run_of: Callable[..., dict[str, Any]]) -> None:
    """LLaVA and PaliGemma: 16 tokens an image; Gemma and SmolVLM 4; Qwen one for each 8 x 8 pixels of what it resizes to."""
    run = assembled(run_of(name))
    batch = run.batch(run.pairs, list(range(6)))
    assert batch.tokens.image is not None
    processor = load_processor(run.config.model)
    texts, images = own_rows(run, batch)
    expected = [
        processor(text=[texts[row]], images=[images[row]])["input_ids"][0].count(image_id(run))
        if COUNTS[row] else 0
        for row in range(6)
    ]
    assert batch.tokens.image.sum(1).tolist() == expected * 2
    assert not (batch.tokens.image & batch.tokens.response).any()
    each = {"llava": 16, "paligemma": 16, "gemma3": 4, "smolvlm": 4}.get(name)
    assert each is None or expected == [count * each for count in COUNTS]


def image_id(run: Run) -> int:
    return int(run.models.policy.config.image_token_id)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_permuting_images_changes_the_image_latents_of_those_rows_and_nothing_of_others(
    name: str, run_of: Callable[..., dict[str, Any]]
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


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_a_model_are_told_apart_and_frozen(name: str, run_of: Callable[..., dict[str, Any]]) -> None:
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
    name: str, run_of: Callable[..., dict[str, Any]]
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
    model: dict[str, Any], latents: str, run_of: Callable[..., dict[str, Any]]
) -> None:
    run = run_of("llava", adversaries=[critic("seen", latents, 1.0)])
    run["model"] = {**run["model"], **model}
    with pytest.raises(ConfigError, match="adversary 'seen': its latents come from a frozen part of the model"):
        assembled(run)


def test_a_cross_term_between_sides_that_share_their_images_is_refused(run_of: Callable[..., dict[str, Any]]) -> None:
    item = critic("seen", "image_positions", 1.0)
    run = load_run(run_of("llava", adversaries=[item]))
    assert run.adversaries[0].cross_weight == 0.0
    assert "adversary 'seen': chosen and rejected share these latents, so the cross term is off (cross_weight 0)" in run.notes
    item["adversary"] = {"cross_weight": 0.5, "weight": item.pop("weight")}
    with pytest.raises(ConfigError, match="latents 'image_positions' are the same for chosen and rejected"):
        load_run(run_of("llava", adversaries=[item]))


def test_latents_of_images_need_images(run_of: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rows = write_rows(tmp_path, (0, 0, 0))
    for latents in ("projector", "vision_tower", "image_positions", "cross_modal"):
        with pytest.raises(DataError, match="no prompt holds an image, and the latents of adversary 'seen' are of images"):
            assembled(run_of("llava", data={"path": str(rows)}, adversaries=[critic("seen", latents, 1.0)]))
    run = assembled(run_of("llava", data={"path": str(rows)}))
    assert run.plan.packing == "shared" and run.pairs.with_images == []


def test_a_model_of_text_has_no_parts_to_freeze(tiny_run: Callable[..., dict[str, Any]], tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.freeze: the model reads text alone"):
        assembled(tiny_run(model={"path": str(tiny_model), "freeze": ["projector"]}))


@pytest.mark.parametrize(("name", "said"), [
    ("gemma3", "attends in both directions within images or prompts"),
    ("paligemma", "attends in both directions within images or prompts"),
    ("qwen2_5_vl", "gives images positions of several dimensions"),
])
def test_what_cannot_be_packed_is_padded_and_said(name: str, said: str, run_of: Callable[..., dict[str, Any]]) -> None:
    run = assembled(run_of(name))
    assert run.plan.packing == "padded"
    assert [note for note in run.notes if note.startswith("training.packing: padded rows") and said in note]
    with pytest.raises(ConfigError, match=r"training\.packing: shared is not possible here"):
        assembled(run_of(name), "training.packing=shared")


@pytest.mark.parametrize("name", sorted(PACKED))
@pytest.mark.parametrize("single", [False, True])
def test_every_layout_gives_the_same_of_images(name: str, single: bool, run_of: Callable[..., dict[str, Any]]) -> None:
    """Log-probabilities and the states of images of pairs and of single responses, in each layout."""
    run = assembled(run_of(name))
    pairs = run.pairs[:5]
    if single:
        pairs = [dataclasses.replace(pair, **{side: ()}) for pair, side in zip(pairs, ("chosen", "rejected") * 3, strict=False)]
    sources, model = (ImageFeatures("tower"), ImageFeatures("projector"), Layer(-1)), run.models.policy
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


def test_a_plugin_of_thirty_lines_reads_a_family_that_nothing_here_knows(tmp_path: Path, root: Path) -> None:
    """docs/vision.md alone: its plugin file, InternVL, whose tower has 16 states and a class token for 4 image tokens."""
    text = (root / "docs" / "vision.md").read_text()
    plugin = text.partition("```python\n")[2].partition("```")[0]
    assert len([line for line in plugin.splitlines() if line.strip()]) <= 30
    (tmp_path / "early_vision.py").write_text(plugin)
    rows = write_rows(tmp_path, COUNTS, sizes=((8, 8), (24, 16)))
    folder = ganpo_core.train(
        {
            "plugins": [str(tmp_path / "early_vision.py")],
            "model": {"path": str(save_family("internvl", tmp_path / "model"))},
            "data": {"path": str(rows)},
            "objective": {"use": "dpo"},
            "adversaries": [
                {"name": "early", "weight": 1.0, "latents": {"use": "early_vision"}, "divergence": {"use": "mse"}},
                critic("again", "early_vision", 1.0), critic("tower", "vision_tower", 1.0),
            ],
            # A pair a micro-batch: some have no image.
            "training": {"learning_rate": 1e-3, "max_steps": 3, "per_device_train_batch_size": 1,
                         "gradient_accumulation_steps": 6, "logging_steps": 1, "save_steps": None},
            "output_dir": str(tmp_path / "out"),
        }
    )
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert all(last[f"adversary/{name}/penalty"] > 0 for name in ("early", "again", "tower"))


def test_micro_batches_with_and_without_images_add_up_to_the_whole_step(
    run_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Six pairs in one micro-batch, or one at a time, two of them without an image: the same losses within rounding."""
    path, found = run_of("llava")["model"]["path"], []
    distance = {"name": "seen", "weight": 1.0, "latents": {"use": "projector"}, "divergence": {"use": "mse"}}
    for size, count in ((6, 1), (1, 6)):
        run = run_of(
            "llava", model={"path": path, "dtype": "float64"}, adversaries=[distance], output_dir=str(tmp_path / str(size)),
            training={"learning_rate": 1e-3, "max_steps": 3, "per_device_train_batch_size": size, "logging_steps": 1,
                      "gradient_accumulation_steps": count, "save_steps": None},
        )
        lines = (ganpo_core.train(run) / "metrics.jsonl").read_text().splitlines()
        found.append([json.loads(line) for line in lines])
    for whole, parts in zip(*found, strict=True):
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        assert parts["adversary/seen/penalty"] == pytest.approx(whole["adversary/seen/penalty"], rel=1e-5, abs=1e-12)
        assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("packing", ["shared", "padded"])
def test_single_responses_with_images_train_and_prompts_keep_theirs_when_mismatched(
    packing: str, run_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """KTO, which also scores each response after the next row's prompt, and so with that prompt's images."""
    rows = [json.loads(line) for line in Path(run_of("llava")["data"]["path"]).read_text().splitlines()]
    folder = Path(run_of("llava")["data"]["path"]).parent
    single = [
        {"prompt": row["prompt"], "images": [str(folder / name) for name in row["images"]], "completion": row["chosen"],
         "label": bool(index % 2)}
        for index, row in enumerate(rows)
    ]
    path = tmp_path / "single.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in single))
    run = assembled(run_of("llava", objective={"use": "kto"}, data={"path": str(path)}), f"training.packing={packing}")
    assert run.plan.packing == packing and run.pairs.is_unpaired
    assert ganpo_core.train(
        run_of("llava", objective={"use": "kto"}, data={"path": str(path)}, adversaries=TEXT_AND_IMAGE),
        {"training.packing": packing, "training.max_steps": 2},
    )
    mixed = run.mismatched(run.pairs, [1, 0, 2], [0, 1, 1])
    assert mixed.images is not None and mixed.tokens.image is not None
    assert [len(inputs.get("pixel_values", ())) for inputs in mixed.images.inputs] == [1, 0, 3]
    assert mixed.tokens.image.view(2, 3, -1).any(0).sum(1).tolist() == [16, 0, 48]


@pytest.mark.parametrize("name", ["paligemma", "qwen2_5_vl"])
def test_the_doctor_finds_models_that_see_sound(name: str, run_of: Callable[..., dict[str, Any]]) -> None:
    findings = list(examine(assembled(run_of(name))))
    assert [finding.line() for finding in findings if not finding.ok] == []
