"""Sampling with shared noise: every policy sees the same luck, so that differences are paired.

Shape suffixes: N prompts, L new tokens, V words, S positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ganpo_lab.reference import ID
from ganpo_lab.world import EOS, PAD, VOCABULARY, Request

MAX_NEW_TOKENS = 48


def gumbel_noise(num_prompts: int, seed: int) -> Tensor:
    """[N, L, V]; noise belongs to (prompt, step, token), not to who samples or in which batch."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(num_prompts, MAX_NEW_TOKENS, len(VOCABULARY), generator=generator)
    return -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-7)))


Look = Callable[[Sequence[Request]], Mapping[str, Tensor]]
"""What a model is given beside the tokens of prompts: their pictures, where it sees."""


def blind(requests: Sequence[Request]) -> Mapping[str, Tensor]:
    """Nothing: the prompt's tokens say everything."""
    return {}


@torch.no_grad()
def sample(
    model: Any, requests: Sequence[Request], temperature: float, noise_NLV: Tensor, look: Look = blind
) -> list[list[str]]:
    """One answer a prompt, tokens up to and with the end of sequence (or MAX_NEW_TOKENS of them)."""
    answers: list[list[str]] = [[] for _ in requests]
    by_length: dict[int, list[int]] = {}
    for index, request in enumerate(requests):
        by_length.setdefault(len(request.prompt.split()), []).append(index)
    for members in by_length.values():  # prompts of one length need no padding
        prompts = torch.tensor([[ID[token] for token in requests[index].prompt.split()] for index in members])
        seen = look([requests[index] for index in members])
        for index, ids in zip(members, _continue(model, prompts, temperature, noise_NLV[members], seen), strict=True):
            end = ids.index(ID[EOS]) + 1 if ID[EOS] in ids else len(ids)
            answers[index] = [VOCABULARY[token] for token in ids[:end]]
    return answers


def _continue(
    model: Any, prompts: Tensor, temperature: float, noise_NLV: Tensor, seen: Mapping[str, Tensor]
) -> list[list[int]]:
    ids, cache, found = prompts, None, []
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for step in range(MAX_NEW_TOKENS):
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, **(seen if step == 0 else {}))
        cache = output.past_key_values
        # A model that sees knows one more token, which is not of its language.
        ids = (output.logits[:, -1, : len(VOCABULARY)] / temperature + noise_NLV[:, step]).argmax(-1, keepdim=True)
        found.append(ids)
        ended |= ids[:, 0] == ID[EOS]
        if ended.all():
            break
    rows: list[list[int]] = torch.cat(found, dim=1).tolist()
    return rows


def padded(requests: Sequence[Request], answers: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts with answers as (ids, valid, response) tensors, [N, S] each."""
    rows = [[*request.prompt.split(), *answer] for request, answer in zip(requests, answers, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([[ID[token] for token in row] + [ID[PAD]] * (width - len(row)) for row in rows])
    length = torch.tensor([[len(row)] for row in rows])
    start = torch.tensor([[len(request.prompt.split())] for request in requests])
    place = torch.arange(width)
    valid = place < length
    return ids, valid, valid & (place >= start)


@torch.no_grad()
def response_logits(
    model: Any, ids: Tensor, valid: Tensor, response: Tensor, seen: Mapping[str, Tensor] = MappingProxyType({})
) -> Tensor:
    """[number of response tokens, V]: the logits that predict each of them."""
    logits: Tensor = model(input_ids=ids, attention_mask=valid.long(), **seen).logits
    return logits[:, :-1, : len(VOCABULARY)][response[:, 1:]]
