"""Rows with images: as TRL writes them, as they must not be, and what becomes of them."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer
from vision_families import FAMILIES, TYPED_TEMPLATE, picture
from vision_rows import load, png, row

from ganpo_core.config import DataConfig
from ganpo_core.data import collate, load_pairs, render_pairs
from ganpo_core.data.flaws import Flaw
from ganpo_core.data.formats import parse_row
from ganpo_core.data.join import ImageInputs
from ganpo_core.data.placeholders import place_images
from ganpo_core.errors import DataError

EACH = 16
"""Tokens of an image of 8 x 8 pixels in patches of 2 x 2."""
ASKED = [{"type": "image"}, {"type": "text", "text": "w5"}]


@pytest.fixture(scope="module")
def processor() -> Any:
    made, _ = FAMILIES["llava"][0]()
    made.chat_template = TYPED_TEMPLATE.replace("IMAGE", "<image>")
    return made


@pytest.fixture
def image() -> Image.Image:
    return picture(random.Random(1))


def test_an_image_that_changed_since_is_an_error_that_names_the_row(tmp_path: Path, processor: Any) -> None:
    (tmp_path / "x.png").write_bytes(png(picture(random.Random(0))))
    pairs, _ = load(tmp_path, processor, [row(ASKED, images=["x.png"])])
    (tmp_path / "x.png").write_bytes(png(picture(random.Random(1))))
    with pytest.raises(DataError, match=r"has changed since the run began \(one of rows\.jsonl row 1\)"):
        collate(pairs[:1], 0)


def test_the_fingerprint_knows_the_pixels(tmp_path: Path, processor: Any) -> None:
    prints = []
    for seed in (0, 0, 1):
        (tmp_path / "x.png").write_bytes(png(picture(random.Random(seed))))
        prints.append(load(tmp_path, processor, [row(ASKED, images=["x.png"])])[0].fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_rows_of_trl_load_unchanged(tmp_path: Path, processor: Any, image: Image.Image) -> None:
    """As `trl-lib/rlaif-v` has them: a list of images, typed parts, written by `datasets` with its Image feature."""
    rows = [
        {
            "images": [image],
            "prompt": [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "w5 w6"}]}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "w1 w2"}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "w3"}]}],
        }
    ] * 3
    table = datasets.Dataset.from_list(rows).cast_column("images", datasets.List(datasets.Image()))
    table.to_parquet(tmp_path / "train.parquet")
    table.save_to_disk(tmp_path / "saved")
    for path in ("train.parquet", "saved"):
        pairs, report = load_pairs(DataConfig(path=str(tmp_path / path)), processor.tokenizer, processor)
        assert (len(pairs), report.kept) == (3, 3)
        ids = processor.tokenizer.convert_tokens_to_ids(["<user>", *["<image>"] * EACH, "w5", "w6", "<model>"])
        assert pairs[0].prompt == tuple(ids)
        assert pairs[0].chosen == tuple(processor.tokenizer.convert_tokens_to_ids(["w1", "w2", "<eos>"]))
        batch = collate(pairs[:2], 0)
        assert batch.image_arguments["pixel_values"].shape == (4, 3, 8, 8)
        expected = processor.image_processor([image], return_tensors="pt")["pixel_values"][0]
        assert all(torch.equal(pixels, expected) for pixels in batch.image_arguments["pixel_values"])


def test_a_broken_image_in_a_parquet_file_is_one_row(tmp_path: Path, processor: Any, image: Image.Image) -> None:
    rows = [{**row(ASKED), "images": [{"bytes": png(image), "path": None}]} for _ in range(100)]
    rows[41]["images"] = [{"bytes": png(image)[:40], "path": None}]
    table = datasets.Dataset.from_list(rows)
    table = table.cast_column("images", datasets.List(datasets.Image(decode=False)))
    table = table.cast_column("images", datasets.List(datasets.Image()))
    table.to_parquet(tmp_path / "train.parquet")
    _, report = load_pairs(DataConfig(path=str(tmp_path / "train.parquet")), processor.tokenizer, processor)
    assert report.lines() == ["train.parquet: 100 rows, 99 kept; dropped: 1 broken_image"]


def test_bad_images_are_counted_by_source_or_end_the_run(tmp_path: Path, processor: Any) -> None:
    (tmp_path / "x.png").write_bytes(png(picture(random.Random(0))))
    rows = [row(ASKED, images=["x.png"])] * 199 + [row(ASKED, images=["gone.png"])]
    _, report = load(tmp_path, processor, rows)
    assert report.lines() == ["rows.jsonl: 200 rows, 199 kept; dropped: 1 missing_image"]
    with pytest.raises(DataError, match=r"row 200: missing_image, .*gone.png: No such file .*on_bad_image: drop"):
        load(tmp_path, processor, rows, on_bad_image="error")
    with pytest.raises(DataError, match="2 of 11 rows are no preference pairs \\(2 missing_image\\)"):
        load(tmp_path, processor, [*rows[:9], rows[-1], rows[-1]])


@pytest.mark.parametrize(("content", "listed", "text"), [
    (ASKED, ["a"], "<user> <image> w5 "),
    ("w5", ["a"], "<user> <image> w5 "),
    ("w5", [], "<user> w5 "),
    ([{"type": "text", "text": "w5"}, {"type": "image"}, {"type": "image"}], ["a", "b"], "<user> w5 <image> <image> "),
    ([{"type": "image", "image": "b"}, {"type": "image"}, "w5"], ["a"], "<user> <image> <image> w5 "),
    ([{"type": "image_url", "image_url": {"url": "b"}}, {"type": "text", "text": "w5"}], [], "<user> <image> w5 "),
])
def test_parts_and_columns_become_one_order(content: object, listed: list[str], text: str, processor: Any) -> None:
    values = row(content, images=listed)
    placed = place_images(parse_row(values, with_images=True), values)
    inline = ["b"] if "b" not in listed and "b" in str(content) else []
    assert list(placed.images) == inline + listed
    assert processor.apply_chat_template(placed.prompt, tokenize=False) == text


@pytest.mark.parametrize(("values", "flaw", "said"), [
    (row(ASKED), Flaw.IMAGE_COUNT, "1 places for images of the column, which has 0"),
    (row(ASKED, images=["x.png", "x.png"]), Flaw.IMAGE_COUNT, "1 places for images of the column, which has 2"),
    (row("w5", images=["x.png"], chosen=[{"role": "assistant", "content": ASKED}]), Flaw.IMAGE_IN_RESPONSE, "in text"),
    (row("w5", chosen=[{"role": "assistant", "content": "w1 <image>"}]), Flaw.IMAGE_IN_RESPONSE, "holds <image>"),
    (row("w5 <image>"), Flaw.IMAGE_COUNT, "the prompt holds <image>, and the row has no image"),
    (row([{"type": "image"}, {"type": "text", "text": "<image>"}], image="x.png"), Flaw.REFUSED_BY_PROCESSOR, "refuses it"),
    (row([{"type": "image"}, {"type": "audio"}], image="x.png"), Flaw.CONTENT_NOT_TEXT, "neither text nor an image"),
    ({"prompt": "<image> <image> w1", "chosen": "w2", "rejected": "w3", "image": "x.png"}, Flaw.IMAGE_COUNT, "2 times"),
])
def test_images_without_a_place_and_places_without_an_image_are_flaws(
    values: dict[str, object], flaw: Flaw, said: str, tmp_path: Path, processor: Any
) -> None:
    (tmp_path / "x.png").write_bytes(png(picture(random.Random(0))))
    with pytest.raises(DataError, match=rf"the first is row 1: {flaw}, .*{said}"):
        load(tmp_path, processor, [values])


def test_plain_prompts_take_their_images_first(tmp_path: Path, processor: Any) -> None:
    (tmp_path / "x.png").write_bytes(png(picture(random.Random(0))))
    rows: list[Mapping[str, object]] = [
        {"prompt": "w5", "chosen": " w1", "rejected": " w2", "image": "x.png"},
        {"prompt": "w5 <image>", "chosen": " w1", "rejected": " w2", "image": "x.png"},
    ]
    pairs, _ = load(tmp_path, processor, rows)
    image, word = processor.image_token_id, processor.tokenizer.convert_tokens_to_ids("w5")
    assert [pair.prompt for pair in pairs] == [(*[image] * EACH, word), (word, *[image] * EACH)]


@pytest.mark.parametrize(("policy", "kept", "reason"), [
    ("drop", 2, "1 overlong"),
    ("truncate_prompt_left", 2, "1 image_would_be_cut"),
    ("truncate_response_right", 3, ""),
])
def test_no_image_is_cut(policy: str, kept: int, reason: str, tmp_path: Path, processor: Any) -> None:
    """18 tokens of prompt with an image and 3 of the response are one too many; without the image they fit."""
    (tmp_path / "x.png").write_bytes(png(picture(random.Random(0))))
    rows = [row(ASKED, images=["x.png"], chosen=[{"role": "assistant", "content": "w1"}]), row("w5"), row(ASKED, image="x.png")]
    pairs, report = load(tmp_path, processor, rows, max_length=21, on_overlong=policy)
    assert len(pairs) == kept
    assert reason in report.lines()[0]
    for pair in pairs:
        held = pair.images
        assert held is not None and pair.prompt.count(processor.image_token_id) == EACH * held.count
        assert pair.length <= 21
    with pytest.raises(DataError, match=r"exceed data\.max_length 21"):
        load(tmp_path, processor, rows, max_length=21, on_overlong="error")


def test_a_model_of_text_reads_rows_as_before(tmp_path: Path, processor: Any) -> None:
    """Columns of images are unknown columns to it; parts that are images are a flaw."""
    path = tmp_path / "rows.jsonl"
    tokenizer = processor.tokenizer
    path.write_text(json.dumps({"prompt": "w5", "chosen": "w1", "rejected": "w2", "images": ["nowhere.png"]}) + "\n")
    pairs, _ = load_pairs(DataConfig(path=str(path)), tokenizer)
    assert pairs[0].images is None and collate(pairs[:1], 0).tokens.image is None
    path.write_text(json.dumps(row(ASKED)) + "\n")
    with pytest.raises(DataError, match="content_not_text, `prompt` has message content that is not text, such as an image"):
        load_pairs(DataConfig(path=str(path)), tokenizer)


def test_tokens_are_counted_without_making_pixels_of_every_image(
    tmp_path: Path, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten rows, two sizes: the image processor works twice while rows are read (and once when it is tried), then per batch."""
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(png(picture(random.Random(index), (8 + index, 8))))
    calls: list[int] = []
    kind = type(processor.image_processor)
    original = kind.__call__

    def counted(self: Any, images: Any, *args: Any, **options: Any) -> Any:
        calls.append(1)
        return original(self, images, *args, **options)

    monkeypatch.setattr(kind, "__call__", counted)
    pairs, _ = load(tmp_path, processor, [row(ASKED, image=f"{index % 2}.png") for index in range(10)])
    assert len(calls) == 3
    collate(pairs[:4], 0)
    assert len(calls) == 7


def test_a_tokenizer_is_left_as_it_was(processor: Any, tmp_path: Path) -> None:
    """Reading rows does not change what is saved with the policy."""
    inner = processor.image_processor
    (tmp_path / "x.png").write_bytes(png(picture(random.Random(0))))
    load(tmp_path, processor, [row(ASKED, images=["x.png"])])
    assert processor.image_processor is inner
    processor.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").get_vocab() == processor.tokenizer.get_vocab()


def test_the_tokens_of_an_image_are_shown_once_with_their_number(tmp_path: Path, processor: Any) -> None:
    from rich.console import Console

    (tmp_path / "x.png").write_bytes(png(picture(random.Random(0))))
    pairs, _ = load(tmp_path, processor, [row(ASKED, images=["x.png"])])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_pairs(pairs, processor.tokenizer, 1))
    assert "[prompt, 19 tokens] <user><image> x 16 w5 <model>" in console.export_text()


def test_inputs_of_several_prompts_are_padded_and_joined() -> None:
    """Two prompts, the first with two images of one tile, the second with one of two: [3, 2, 2] with a zero tile for each of
    the first; a prompt without images gives nothing."""
    one = {"pixel_values": torch.ones(2, 1, 2), "image_sizes": torch.tensor([[1, 1], [2, 2]])}
    two = {"pixel_values": torch.full((1, 2, 2), 5.0), "image_sizes": torch.tensor([[3, 3]])}
    inputs = ImageInputs((one, {}, two), {})
    found = inputs.joined([2, 1, 0])
    assert found["pixel_values"].tolist() == [[[5, 5], [5, 5]], [[1, 1], [0, 0]], [[1, 1], [0, 0]]]
    assert found["image_sizes"].tolist() == [[3, 3], [1, 1], [2, 2]]
    assert inputs.any and not ImageInputs(({}, {}), {}).any
    assert ImageInputs(({}, {}), {}).joined([0, 1]) == {}


@pytest.mark.parametrize("saved", ["train.parquet", "folder"])
def test_images_inside_of_messages_are_rows_flaws_too(saved: str, tmp_path: Path, processor: Any, image: Image.Image) -> None:
    """`datasets` would decode an Image feature wherever it stands, and end with the first broken one."""
    text, whole = datasets.Value("string"), {"bytes": png(image), "path": None}
    parts = datasets.List({"type": text, "text": text, "image": datasets.Image()})
    answer = datasets.List({"role": text, "content": text})
    features = datasets.Features(
        {"prompt": datasets.List({"role": text, "content": parts}), "chosen": answer, "rejected": answer}
    )
    rows = []
    for index in range(120):
        content = [{"type": "image", "text": None, "image": {**whole, "bytes": png(image)[:40]} if index == 7 else whole},
                   {"type": "text", "text": "w5", "image": None}]
        rows.append(row(content))
    table = datasets.Dataset.from_list(rows, features=features)
    path = tmp_path / saved
    if path.suffix:
        table.to_parquet(path)
    else:
        table.save_to_disk(path)
    pairs, report = load_pairs(DataConfig(path=str(path)), processor.tokenizer, processor)
    assert report.lines() == [f"{saved}: 120 rows, 119 kept; dropped: 1 broken_image"]
    assert pairs[0].prompt.count(processor.image_token_id) == EACH


def test_a_placeholder_in_an_answer_is_called_that(tmp_path: Path, processor: Any) -> None:
    """Also beside an image, where the processor would find one place too many."""
    (tmp_path / "x.png").write_bytes(png(picture(random.Random(0))))
    flawed = row(ASKED, images=["x.png"], chosen=[{"role": "assistant", "content": "w1 <image>"}])
    _, report = load(tmp_path, processor, [row(ASKED, images=["x.png"])] * 199 + [flawed])
    assert report.lines() == ["rows.jsonl: 200 rows, 199 kept; dropped: 1 image_in_response"]
