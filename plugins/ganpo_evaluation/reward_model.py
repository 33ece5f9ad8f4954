"""A reward model: any sequence-classification model with one output.

Shape suffixes: N rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ganpo_core import ConfigError, Judge, PositiveInt, Prompt, Scorer, first_line
from ganpo_evaluation.exchange import through_template
from ganpo_evaluation.texts import as_messages, plain_text


@dataclass(frozen=True)
class RewardModel(Judge):
    """The scalar of a sequence-classification model, through its tokenizer's chat template."""

    path: str
    """A folder, or a name on the hub, that AutoModelForSequenceClassification loads with one label."""
    revision: str | None = None
    """A branch, tag or commit of the hub's repository."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and computation."""
    batch_size: PositiveInt = 8
    """Conversations of a forward pass."""
    max_length: PositiveInt = 2048
    """Tokens; what is longer loses its beginning, so that the response stays."""

    def build(self) -> Scorer:
        """Loads the model, on a CUDA device where there is one."""
        import torch

        model, tokenizer = self._load()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)

        @torch.no_grad()
        def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
            rows = [_encode(tokenizer, *pair)[-self.max_length :] for pair in zip(prompts, responses, strict=True)]
            scores = [0.0] * len(rows)
            order = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # rows of a batch are of like length
            for start in range(0, len(order), self.batch_size):
                members = order[start : start + self.batch_size]
                batch = tokenizer.pad({"input_ids": [rows[index] for index in members]}, return_tensors="pt").to(device)
                values_N = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].float()
                for index, value in zip(members, values_N.tolist(), strict=True):
                    scores[index] = value
            return scores

        return score

    def _load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.path, revision=self.revision, padding_side="right")
            model = AutoModelForSequenceClassification.from_pretrained(
                self.path, revision=self.revision, dtype=getattr(torch, self.dtype), use_safetensors=True
            ).eval()
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(f"judge.path: no reward model in '{self.path}': {first_line(error)}") from error
        if model.config.num_labels != 1:
            raise ConfigError(
                f"judge.path: '{self.path}' has {model.config.num_labels} labels; a reward model has one (num_labels: 1)"
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id  # the model scores a row at its last token that is not this
        return model, tokenizer


def _encode(tokenizer: Any, prompt: Prompt, response: str) -> list[int]:
    """A conversation's tokens; without a chat template, prompt and response as a pair of texts."""
    if tokenizer.chat_template:
        turns: list[dict[str, object]] = [*as_messages(prompt), {"role": "assistant", "content": response}]
        text = through_template(tokenizer, turns)
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = tokenizer(plain_text(prompt), response)["input_ids"]
    return ids
