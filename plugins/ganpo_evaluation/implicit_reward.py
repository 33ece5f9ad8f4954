"""A policy's own preference as a judge: how much likelier it makes a response than its reference does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ganpo_core import Judge, PositiveInt, Prompt, Scorer
from ganpo_evaluation.exchange import token_pairs
from ganpo_evaluation.language_model import LanguageModel, load_language_model, reference_of


@dataclass(frozen=True)
class ImplicitReward(Judge):
    """The log-ratio of policy and reference on a response, in nats, or the policy's log-probability by itself."""

    run: str
    """A run's folder; or any model, together with `reference` or with `kind: logp`."""
    reference: str | None = None
    """The model to compare with; by default the run's reference."""
    kind: Literal["log_ratio", "logp", "mean_logp"] = "log_ratio"
    """DPO's implicit reward over beta; the log-probability; or its mean over tokens, which is SimPO's over beta."""
    batch_size: PositiveInt = 8
    """Responses of a forward pass."""

    def build(self) -> Scorer:
        """Loads the policy, and the reference where it is asked for."""
        policy = load_language_model(self.run)
        reference = None
        if self.kind == "log_ratio":
            reference = load_language_model(self.reference or reference_of(self.run))

        def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
            pairs = token_pairs(policy.tokenizer, prompts, responses, policy.context)
            scores: list[float] = []
            for start in range(0, len(pairs), self.batch_size):
                batch = pairs[start : start + self.batch_size]
                mine = self._logps(policy, batch)
                theirs = [0.0] * len(batch) if reference is None else self._logps(reference, batch)
                scores += [own - other for own, other in zip(mine, theirs, strict=True)]
            return scores

        return score

    def _logps(self, model: LanguageModel, pairs: Sequence[Any]) -> list[float]:
        import torch

        from ganpo_core.data import collate
        from ganpo_core.forward import response_pass

        batch = collate(pairs, model.tokenizer.pad_token_id).to(next(model.model.parameters()).device)
        with torch.no_grad():
            found = response_pass(model.model, model.model, batch).logps
        assert found is not None
        values: list[float] = (found.chosen.mean if self.kind == "mean_logp" else found.chosen.total).tolist()
        return values
