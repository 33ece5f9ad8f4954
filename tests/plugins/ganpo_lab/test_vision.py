"""The world that is seen: its pictures, its model's inputs, and the demo in miniature."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from ganpo_lab import demo_vision
from ganpo_lab.demo_vision import SIGHT, run_vision_demo
from ganpo_lab.evaluate import Evaluation
from ganpo_lab.picture import CELL, COLOURS, SeenRequest, _shape, as_image, as_pixels, draw_picture, see
from ganpo_lab.preferences import PreferenceRecipe
from ganpo_lab.reference import ID
from ganpo_lab.sampling import gumbel_noise, sample
from ganpo_lab.seeing import (
    SeeingRecipe,
    load_seeing,
    look,
    make_processor,
    make_seeing_reference,
    make_seen_preferences,
    seen_held_out,
    swapped,
)
from ganpo_lab.world import IMAGE, Request, draw_requests

TINY = SeeingRecipe(
    steps=30, batch_size=16, hidden_size=32, num_layers=1, num_heads=2, ffn_size=64, tower_size=16, tower_layers=1
)
FEW = PreferenceRecipe(num_prompts=80, num_held_out=30)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    assert make_seeing_reference(TINY, folder / "reference", lambda step, loss: None)
    make_seen_preferences(FEW, folder / "reference", folder / "preferences", load_seeing)
    return folder


def test_a_picture_is_a_function_of_its_keys_and_its_number() -> None:
    one = draw_picture(SeenRequest((1, 4), 3, 7))
    assert one.shape == (16, 16, 3) and one.dtype == np.uint8
    assert np.array_equal(one, draw_picture(SeenRequest((1, 4), 9, 7)))  # the seed is in the text
    assert not np.array_equal(one, draw_picture(SeenRequest((1, 4), 3, 8)))
    assert not np.array_equal(one, draw_picture(SeenRequest((4, 1), 3, 7)))


def test_a_mark_stands_out_in_as_many_cells_as_keys() -> None:
    """Grey is 128 with a deviation of 12; marks are red or blue, further than 50 from it. Keys 0 to 3 are red, 4 to 7 blue."""
    for keys in ((0,), (1, 6), (7, 2, 3)):
        picture = draw_picture(SeenRequest(keys, 0, 5)).astype(int)
        cells = [picture[y : y + CELL, x : x + CELL] for y in (0, CELL) for x in (0, CELL)]
        tints = [np.median((cell[..., 0] - cell[..., 2])[abs(cell[..., 0] - cell[..., 2]) > 80]) for cell in cells
                 if (abs(cell[..., 0] - cell[..., 2]) > 80).sum() > 5]
        assert [bool(tint < 0) for tint in tints] == [key >= 4 for key in keys]


def test_every_key_has_a_mark_of_its_own() -> None:
    """Four shapes of 20 or 24 of 36 pixels, each apart from each other in at least 12, in two colours."""
    shapes = [_shape(index) for index in range(4)]
    assert [int(shape.sum()) for shape in shapes] == [24, 24, 20, 20]
    assert all((shapes[i] != shapes[j]).sum() >= 12 for i in range(4) for j in range(i))
    assert len({(key % 4, COLOURS[key // 4]) for key in range(8)}) == 8


def test_the_prompt_says_the_seed_alone(lab: Path) -> None:
    request = SeenRequest((1, 4), 3, 7)
    assert request.written == "<bos> <image> v3 <sep>"
    assert request.prompt.split() == ["<bos>", *["<image>"] * 4, "v3", "<sep>"]
    assert request.target(4) == Request((1, 4), 3).target(4) and request.split == Request((1, 4), 3).split


def test_the_processor_makes_the_tokens_and_the_pixels_that_the_reference_learnt_from() -> None:
    requests = see(draw_requests("test", 3, random.Random(0)), 2_000_000)
    processor = make_processor()
    made = processor(
        text=[request.written for request in requests], images=[as_image(request) for request in requests], return_tensors="pt"
    )
    assert made["input_ids"].tolist() == [[ID[token] for token in request.prompt.split()] for request in requests]
    assert torch.allclose(made["pixel_values"], as_pixels(requests), atol=1e-6)
    assert len(processor.tokenizer) == 29 == ID[IMAGE] + 1


def test_answers_depend_on_the_picture_and_swapping_moves_them_on(lab: Path) -> None:
    """The answer to a prompt with the next one's picture is what the next prompt's picture gives under the same text."""
    model = load_seeing(lab / "reference")
    drawn = draw_requests("test", 6, random.Random(0))
    same_text = see([Request(request.keys, 3) for request in drawn], 2_000_000)
    pixels = look(same_text)["pixel_values"]
    assert torch.equal(swapped(same_text)["pixel_values"], pixels.roll(-1, 0))
    with torch.no_grad():
        ids = torch.tensor([[ID[token] for token in same_text[0].prompt.split()]] * 6)
        logits = model(input_ids=ids, pixel_values=pixels).logits[:, -1]
    assert (logits - logits[0]).abs().amax(1)[1:].min() > 0
    noise = gumbel_noise(6, 0)
    together = sample(model, same_text, 1.0, noise, look)
    assert together == [sample(model, [same_text[i]], 1.0, noise[i : i + 1], look)[0] for i in range(6)]


def test_rows_hold_a_path_and_one_placeholder(lab: Path) -> None:
    lines = (lab / "preferences" / "train.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    assert (lab / "preferences" / row["image"]).is_file() and row["prompt"].split().count(IMAGE) == 1
    held = seen_held_out(lab / "preferences")
    assert all(isinstance(request, SeenRequest) and request.number >= 1_000_000 for request, _ in held)


def test_the_reference_agrees_with_itself(lab: Path) -> None:
    model = load_seeing(lab / "reference")
    rows = list(Evaluation(model, seen_held_out(lab / "preferences"), 0, 24, SIGHT).rows("again", model))
    assert all(row.latent == 0.0 and row.agrees == row.strict and row.swapped is not None for row in rows)


def test_the_vision_demo_in_miniature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps of each run: a table with the shares of answers that agree with the picture shown, and with another."""
    monkeypatch.setattr(demo_vision, "SeeingRecipe", lambda seed=0: TINY)
    monkeypatch.setattr(demo_vision, "PreferenceRecipe", lambda seed=0: FEW)
    rows = run_vision_demo(tmp_path / "lab", seed=0, steps=2, num_prompts=16)
    assert [row.policy for row in rows] == ["reference"] * 3 + ["colder reference"] + ["dpo"] * 4 + ["ganpo"] * 4
    saved = json.loads((tmp_path / "lab" / "table.json").read_text())
    assert all({"agrees", "swapped"} <= row.keys() for row in saved)
    assert "| agrees | swapped |" in (tmp_path / "lab" / "table.md").read_text()
    assert "swapped" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "lab" / "ganpo" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"adversary/image/penalty", "adversary/text/penalty"} <= metrics.keys()
