"""Training of models that see."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from vision_families import save_family, write_rows
from vision_runs import COUNTS, RunOf, assembled, critic

import ganpo_core
from ganpo_core.data import PairBatch
from ganpo_core.errors import CheckpointError, NotFiniteError
from ganpo_core.replay import replay

TEXT_AND_IMAGE = [critic("text", "text_positions", 1.0), critic("image", "image_positions", 0.5)]


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
    run_of: RunOf, tmp_path: Path
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
    packing: str, run_of: RunOf, tmp_path: Path
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


def test_an_image_that_changed_between_two_starts_is_named(run_of: RunOf, tmp_path: Path) -> None:
    """Row 3 has 3 images, and one of them is another picture of the same size."""
    rows = write_rows(tmp_path / "rows", COUNTS)
    run = run_of("llava", data={"path": str(rows)}, training={"learning_rate": 1e-3, "max_steps": 1})
    (ganpo_core.train(run) / "policy" / "manifest.json").unlink()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "rows" / "pictures" / "2_1.png")
    with pytest.raises(CheckpointError, match=r"Changed: data: pairs\.jsonl: images changed in row 3\. "):
        ganpo_core.train(run, resume=True)


SPOIL = """\
from dataclasses import dataclass, replace
from ganpo_core import Objective, component, hookimpl

@dataclass(frozen=True)
class Spoilt(Objective):
    def loss(self, policy, reference):
        found = component("objective", "dpo").loss(policy, reference)
        return replace(found, per_pair=found.per_pair.masked_fill(found.per_pair == found.per_pair[-1], float("nan")))

@hookimpl
def ganpo_objectives():
    return {"spoilt": Spoilt}
"""


def test_a_stopped_step_is_replayed_on_the_images_that_it_saw(run_of: RunOf, tmp_path: Path) -> None:
    """Rows of 0, 1, 3, 1, 2 and 0 images, whose files are gone when the step runs again."""
    (tmp_path / "spoil.py").write_text(SPOIL)
    rows = write_rows(tmp_path / "rows", COUNTS, sizes=((8, 8), (24, 16)))
    training = {"learning_rate": 1e-3, "max_steps": 1, "per_device_train_batch_size": 6, "save_steps": None}
    run = run_of("llava", objective={"use": "spoilt"}, plugins=[str(tmp_path / "spoil.py")], training=training,
                 data={"path": str(rows)}, adversaries=TEXT_AND_IMAGE)
    before = assembled({**run, "output_dir": str(tmp_path / "before")}).window(0)[0]
    with pytest.raises(NotFiniteError):
        ganpo_core.train(run)
    shutil.rmtree(tmp_path / "rows" / "pictures")
    (bundle,) = (tmp_path / "out" / "replay").iterdir()
    seen: list[PairBatch] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ganpo_core.replay.train_step", lambda run, window, *rest: seen.extend(window))
        assert not replay(bundle).found
    assert before.image_arguments["pixel_values"].shape[0] == 7
    assert torch.equal(seen[0].input_ids, before.input_ids)
    for name, value in before.image_arguments.items():
        assert torch.equal(seen[0].image_arguments[name], value)
    assert replay(bundle).is_reproduced
