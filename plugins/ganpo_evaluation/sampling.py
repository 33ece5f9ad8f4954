"""Responses by sampling: one stream of luck for each prompt, so the batch size does not change what is drawn.

Shape suffixes: N rows of a batch, V words.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ganpo_core import ConfigError, DataError, GanpoError, Prompt
from ganpo_evaluation.exchange import through_template
from ganpo_evaluation.language_model import LanguageModel
from ganpo_evaluation.texts import as_messages, plain_text

Engine = Literal["transformers", "vllm"]


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn."""

    temperature: float = 0.7
    """0 takes the likeliest token."""
    seed: int = 0
    max_new_tokens: int = 512
    batch_size: int = 16


def generate(policy: LanguageModel, prompts: Sequence[Prompt], sampling: Sampling) -> list[str]:
    """A response to each prompt, by transformers."""
    encoded = [encode(policy, prompt, sampling.max_new_tokens) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))  # rows of a batch are of like length
    responses = [""] * len(prompts)
    for start in range(0, len(order), sampling.batch_size):
        members = order[start : start + sampling.batch_size]
        rows = [(index, encoded[index]) for index in members]
        for index, text in zip(members, _continued(policy, rows, sampling), strict=True):
            responses[index] = text
    return responses


def generate_with_vllm(path: str, prompts: Sequence[Prompt], samplings: Sequence[Sampling]) -> Iterator[list[str]]:
    """Responses for each way of sampling, by vLLM. Raises GanpoError where it is not installed."""
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise GanpoError(f"--engine vllm: vLLM does not import ({error}); install it with `pip install 'ganpo[vllm]'`") from error
    engine = LLM(model=path, seed=samplings[0].seed)
    has_template = bool(engine.get_tokenizer().chat_template)
    for sampling in samplings:
        parameters = [
            SamplingParams(
                temperature=sampling.temperature, max_tokens=sampling.max_new_tokens, seed=_luck(sampling.seed, index)
            )
            for index in range(len(prompts))
        ]
        if has_template:
            outputs = engine.chat([as_messages(prompt) for prompt in prompts], parameters)
        else:
            outputs = engine.generate([plain_text(prompt) for prompt in prompts], parameters)
        yield [output.outputs[0].text for output in outputs]


def encode(policy: LanguageModel, prompt: Prompt, room: int) -> list[int]:
    """A prompt's tokens, with the template's opening of an answer; the beginning gives way where `room` needs it."""
    tokenizer = policy.tokenizer
    if tokenizer.chat_template:
        text = through_template(tokenizer, as_messages(prompt), add_generation_prompt=True)
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = tokenizer(plain_text(prompt))["input_ids"]
        if ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers end every text
            ids = ids[:-1]
    if not ids:
        raise DataError("a prompt has no tokens: it is empty, and the tokenizer begins no text with a token of its own")
    if policy.context is not None and len(ids) + room > policy.context:
        if room >= policy.context:
            raise ConfigError(f"--max-new-tokens: {room} leaves no room for a prompt: the model's context is {policy.context}")
        ids = ids[-(policy.context - room) :]
    return ids


def _continued(policy: LanguageModel, rows: Sequence[tuple[int, list[int]]], sampling: Sampling) -> list[str]:
    import torch
    from transformers import LogitsProcessorList

    model, tokenizer = policy.model, policy.tokenizer
    device = next(model.parameters()).device
    width = max(len(ids) for _, ids in rows)
    padded = [[tokenizer.pad_token_id] * (width - len(ids)) + ids for _, ids in rows]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for _, ids in rows]
    settings = copy.deepcopy(model.generation_config)
    settings.update(
        do_sample=False, temperature=None, top_p=None, top_k=None, num_beams=1, max_length=None,
        max_new_tokens=sampling.max_new_tokens, pad_token_id=tokenizer.pad_token_id,
    )
    if settings.eos_token_id is None:
        settings.eos_token_id = tokenizer.eos_token_id
    processors = LogitsProcessorList()
    if sampling.temperature > 0:
        processors.append(GumbelNoise(sampling.temperature, [_luck(sampling.seed, index) for index, _ in rows], device))
    with torch.no_grad():
        found = model.generate(
            input_ids=torch.tensor(padded, device=device), attention_mask=torch.tensor(mask, device=device),
            generation_config=settings, logits_processor=processors,
        )
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    return [_text(tokenizer, ids, ends) for ids in found[:, width:].tolist()]


class GumbelNoise:
    """A logits processor with which the likeliest token is a draw from softmax(logits / temperature)."""

    def __init__(self, temperature: float, seeds: Sequence[int], device: Any) -> None:
        import torch

        self.temperature = temperature
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores_NV: Any) -> Any:
        """Logits over the temperature, with each row's own noise."""
        import torch

        noise_NV = torch.empty_like(scores_NV, dtype=torch.float32)
        for row, generator in zip(noise_NV, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores_NV.float() / self.temperature - noise_NV.clamp_min(1e-30).log()


def _luck(seed: int, index: int) -> int:
    """A seed of each prompt's own."""
    return zlib.crc32(f"{seed}-{index}".encode())


def _text(tokenizer: Any, ids: list[int], ends: Sequence[int]) -> str:
    """Up to the end of the answer. Other special tokens stay: a model that writes them inside of an answer is seen to."""
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    text: str = tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.strip() if tokenizer.chat_template else text  # a plain continuation may begin with its space
