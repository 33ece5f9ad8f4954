"""What is measured without sampling: entropy, divergence and latents on held-out sequences, policy beside reference.

Shape suffixes: M response tokens, P positions, V words, H latent width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ganpo_core.entropy import matching_temperature, mean_entropy
from ganpo_lab.sampling import Look, padded, response_logits
from ganpo_lab.world import Request


class HeldOutSequences:
    """Sequences that neither reference nor policies were trained on, and what the reference makes of them."""

    def __init__(
        self, reference: Any, sequences: Sequence[tuple[Request, list[str]]], look: Look | None = None
    ) -> None:
        """`look` gives the pictures of prompts that are seen."""
        self._tokens = padded([request for request, _ in sequences], [answer for _, answer in sequences])
        self._sees = look is not None
        self._seen = {} if look is None else look([request for request, _ in sequences])
        self._logits_MV = self._logits(reference)
        self._states_PH = self._states(reference)

    def entropy(self, temperature: float = 1.0) -> float:
        """The reference's, in nats per response token."""
        return mean_entropy(self._logits_MV, temperature)

    def matching_temperature(self, policy: Any, temperature: float = 1.0) -> float:
        """At which the policy is as random as the reference is at `temperature`."""
        return self.matching_temperatures(policy, (temperature,))[0]

    def matching_temperatures(self, policy: Any, temperatures: Sequence[float]) -> list[float]:
        """The same for several of the reference's."""
        logits_MV = self._logits(policy)
        return [matching_temperature(logits_MV, self.entropy(temperature)) for temperature in temperatures]

    def policy_entropy(self, policy: Any) -> float:
        """The policy's at T = 1, in nats per response token."""
        return mean_entropy(self._logits(policy))

    def divergence(self, policy: Any) -> float:
        """KL[policy || reference] at T = 1, in nats per response token."""
        own_MV = self._logits(policy).double().log_softmax(-1)
        reference_MV = self._logits_MV.double().log_softmax(-1)
        return float((own_MV.exp() * (own_MV - reference_MV)).sum(-1).mean())

    def shift(self, policy: Any) -> float:
        """How much more likely the policy finds the sequences than the reference does, in nats per response token."""
        ids, _, response = self._tokens
        words_M1 = ids[:, 1:][response[:, 1:]][:, None]
        own_MV = self._logits(policy).double().log_softmax(-1)
        reference_MV = self._logits_MV.double().log_softmax(-1)
        return float((own_MV - reference_MV).gather(-1, words_M1).mean())

    def latent(self, policy: Any) -> float:
        """Mean squared difference of the last hidden states, policy and reference."""
        return self._states(policy).sub(self._states_PH).square().mean().item()

    def _logits(self, policy: Any) -> Tensor:
        """[M, V], what predicts each response token."""
        return response_logits(policy, *self._tokens, self._seen)

    @torch.no_grad()
    def _states(self, policy: Any) -> Tensor:
        """[P, H], what the head reads."""
        ids, valid, _ = self._tokens
        inner = policy.base_model if self._sees else policy.get_decoder()
        states: Tensor = inner(input_ids=ids, attention_mask=valid.long(), **self._seen).last_hidden_state
        return states[valid]
