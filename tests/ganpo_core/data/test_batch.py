"""Pairs in tensors, in compact storage, and on the screen."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from ganpo_core.data import PairDataset, TokenPair, collate, render_pairs

FIRST = TokenPair((1, 10), (11, 2), (12, 13, 2), "a", 1)
SECOND = TokenPair((1, 10, 11), (12,), (2,), "b", 4)


def test_a_batch_has_chosen_rows_then_rejected_rows_and_masks_that_add_up():
    """Sides of 4, 4, 5 and 4 tokens: 4 rows of 5 positions, padded with 0."""
    batch = collate([FIRST, SECOND], pad_token_id=0)
    assert batch.num_pairs == 2
    assert batch.pair_ids == (("a", 1), ("b", 4))
    assert batch.input_ids.tolist() == [
        [1, 10, 11, 2, 0],
        [1, 10, 11, 12, 0],
        [1, 10, 12, 13, 2],
        [1, 10, 11, 2, 0],
    ]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4]] * 4
    assert batch.tokens.valid.int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.tokens.prompt.int().tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert batch.tokens.response.int().tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 1, 0], [0, 0, 1, 1, 1], [0, 0, 0, 1, 0]]
    assert batch.input_ids.dtype == batch.position_ids.dtype == torch.long
    assert batch.tokens.image is None


def test_a_padding_token_that_is_also_the_end_of_sequence_is_told_apart_by_the_masks():
    batch = collate([FIRST, SECOND], pad_token_id=2)
    assert batch.input_ids[0].tolist() == [1, 10, 11, 2, 2]
    assert batch.tokens.response[0].tolist() == [False, False, True, True, False]


def test_a_batch_moves_whole():
    moved = collate([FIRST], pad_token_id=0).to("meta")
    tensors = [moved.input_ids, moved.position_ids, moved.tokens.valid, moved.tokens.prompt, moved.tokens.response]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.pair_ids == (("a", 1),)


def test_a_dataset_gives_back_what_it_was_given():
    dataset = PairDataset([FIRST, SECOND], {"b": 0.5})
    assert list(dataset) == [FIRST, SECOND] == dataset[:]
    assert dataset[-1] == SECOND
    assert SECOND in dataset
    assert (dataset.sources, dataset.counts, dataset.weights) == (("a", "b"), (1, 1), (1.0, 0.5))
    assert dataset.lengths.tolist() == [[2, 2, 3], [3, 1, 1]]
    assert [pair.length for pair in dataset] == [5, 4]
    with pytest.raises(IndexError, match="pair 2 of 2"):
        dataset[2]


def test_a_fingerprint_is_over_lengths_and_tokens():
    """Two pairs of 7 and 5 tokens: 6 lengths and 12 tokens of 4 bytes, little-endian."""
    lengths, tokens = [2, 2, 3, 3, 1, 1], [1, 10, 11, 2, 12, 13, 2, 1, 10, 11, 12, 2]
    expected = hashlib.sha256(np.array(lengths + tokens, dtype="<i4").tobytes()).hexdigest()
    assert PairDataset([FIRST, SECOND]).fingerprint() == expected
    assert PairDataset([SECOND]).fingerprint() != expected


def test_the_pairs_of_a_source_come_together():
    with pytest.raises(ValueError, match="source 'a' are not together"):
        PairDataset([FIRST, SECOND, FIRST])


def test_pairs_are_shown_with_marks_that_need_no_colour(tokenizer):
    pair = TokenPair((1, 1, 10), (11, 2), (12, 13, 2), "a.jsonl", 7)
    screen = io.StringIO()
    Console(file=screen, width=60, no_color=True).print(render_pairs(PairDataset([pair]), tokenizer, 5))
    lines = [line.rstrip() for line in screen.getvalue().splitlines()]
    assert "a.jsonl, row 7" in lines[0]
    assert lines[1:6] == [
        "[prompt, 3 tokens] <s> <s> one",
        "[chosen, 2 tokens] two </s>",
        "  mask 0 x 3, 1 x 2; 5 tokens, 2 BOS (more than one)",
        "[rejected, 3 tokens] three four </s>",
        "  mask 0 x 3, 1 x 3; 6 tokens, 2 BOS (more than one)",
    ]


def test_the_three_parts_have_colours_of_their_own(tokenizer):
    screen = io.StringIO()
    console = Console(file=screen, width=60, force_terminal=True, color_system="standard", legacy_windows=False)
    console.print(render_pairs(PairDataset([FIRST]), tokenizer, 1))
    assert all(f"\x1b[{colour}m" in screen.getvalue() for colour in (36, 32, 31))


def test_importing_the_package_loads_no_heavy_library():
    heavy = "{'torch', 'datasets', 'transformers'}"
    code = f"import sys, ganpo_core.data; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
