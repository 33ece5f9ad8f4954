"""The reference: a small Llama taught by the imperfect writer, and its tokenizer."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ganpo_lab.world import BOS, EOS, IMAGE, PAD, SEP, VOCABULARY, Request, draw_requests
from ganpo_lab.writer import write

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

ID = {token: index for index, token in enumerate((*VOCABULARY, IMAGE))}
IDENTITY = "lab.json"
"""What a folder was made from: made again only if that changes."""


@dataclass(frozen=True)
class ReferenceRecipe:
    """Size and training of the reference."""

    seed: int = 0
    steps: int = 700
    batch_size: int = 64
    learning_rate: float = 2e-3
    hidden_size: int = 96
    num_layers: int = 3
    num_heads: int = 4
    ffn_size: int = 256


def make_reference(recipe: ReferenceRecipe, folder: Path, advance: Callable[[int, float], None]) -> bool:
    """Train the reference into `folder` unless it is there already; `advance(step, loss)` follows. True if trained."""
    from transformers import LlamaForCausalLM

    made_from = {**asdict(recipe), "torch": version("torch"), "transformers": version("transformers")}
    if is_made_from(folder, made_from):
        return False
    torch.manual_seed(recipe.seed)
    draw = random.Random(recipe.seed)
    model = LlamaForCausalLM(text_config(recipe, vocab_size=len(VOCABULARY)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps)
    for step in range(recipe.steps):
        requests = draw_requests("train", recipe.batch_size, draw)
        ids, labels = taught_batch([(request, write(request, draw)) for request in requests])
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        advance(step + 1, loss.item())
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / IDENTITY).write_text(json.dumps(made_from, indent=1), encoding="utf-8")
    return True


def text_config(recipe: ReferenceRecipe, vocab_size: int) -> LlamaConfig:
    """Of the language model."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.ffn_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=ID[PAD],
        bos_token_id=ID[BOS],
        eos_token_id=ID[EOS],
    )


def is_made_from(folder: Path, identity: dict[str, object]) -> bool:
    """True where `folder` holds what would be made again from the same recipe."""
    path = folder / IDENTITY
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == identity


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; it adds nothing by itself: prompts carry their <bos>."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({token: ID[token] for token in VOCABULARY}, unk_token=PAD))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=PAD, sep_token=SEP
    )


def taught_batch(examples: Sequence[tuple[Request, list[str]]]) -> tuple[Tensor, Tensor]:
    """Right-padded ids, and labels on the answers alone."""
    rows = [([ID[t] for t in request.prompt.split()], [ID[t] for t in answer]) for request, answer in examples]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), width), ID[PAD])
    labels = torch.full((len(rows), width), -100)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return ids, labels
