"""Policies judged by the oracle on held-out prompts, beside the reference, at several temperatures."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganpo_core import statistics
from ganpo_lab.held_out import HeldOutSequences
from ganpo_lab.sampling import Look, blind, gumbel_noise, sample
from ganpo_lab.world import Request, Verdict, draw_requests, judge

TEMPERATURES = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Row:
    """One policy at one temperature."""

    policy: str
    temperature: float
    matched: bool
    """True where the temperature is the one that gives the reference's mean token entropy at T = 1."""
    reward: float
    valid: float
    strict: float
    win: float
    """Against independent samples of the reference at the row's nominal temperature; a tie counts one half."""
    length: float
    """Tokens, the end of sequence included."""
    latent: float
    """Mean squared difference of the last hidden states, policy and reference, over held-out sequences."""
    agrees: float | None = None
    """Where prompts are seen: the share of answers whose keys are exactly those in the picture."""
    swapped: float | None = None
    """The same share when another prompt's picture is shown."""


def load_policy(folder: Path) -> Any:
    """A policy for sampling."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@dataclass(frozen=True)
class Sight:
    """How prompts are seen, in the world that has pictures."""

    see: Callable[[Sequence[Request]], Sequence[Request]]
    look: Look
    mislead: Look
    """Another prompt's picture: the control."""


class Evaluation:
    """The same prompts, the same noise and the same opponents for every policy."""

    def __init__(
        self,
        reference: Any,
        sequences: Sequence[tuple[Request, list[str]]],
        seed: int,
        num_prompts: int,
        sight: Sight | None = None,
    ) -> None:
        self._sight = sight
        self.requests: Sequence[Request] = draw_requests("test", num_prompts, random.Random(f"{seed}-evaluation"))
        if sight is not None:
            self.requests = sight.see(self.requests)
        self._noise = gumbel_noise(num_prompts, 2 * seed + 5_000)
        rival_noise = gumbel_noise(num_prompts, 2 * seed + 5_001)
        self._rivals = {
            temperature: self._judged(reference, temperature, rival_noise)[0] for temperature in TEMPERATURES
        }
        self._held_out = HeldOutSequences(reference, sequences, None if sight is None else sight.look)

    def rows(self, name: str, policy: Any, is_reference: bool = False) -> Iterator[Row]:
        """A row per temperature, and one at the matched temperature (the reference's own is 1)."""
        latent = self._held_out.latent(policy)
        for temperature in TEMPERATURES:
            yield self._row(name, policy, temperature, temperature, False, latent)
        if not is_reference:
            matched = self._held_out.matching_temperature(policy)
            yield self._row(name, policy, matched, 1.0, True, latent)

    def colder_reference(self, reference: Any, temperature: float) -> Row:
        """The reference itself, merely sampled colder, against its samples at T = 1."""
        return self._row("colder reference", reference, temperature, 1.0, False, 0.0)

    def _row(
        self, name: str, policy: Any, temperature: float, nominal: float, matched: bool, latent: float
    ) -> Row:
        verdicts, length = self._judged(policy, temperature, self._noise)
        rivals = self._rivals[nominal]
        count = len(verdicts)
        agrees = swapped = None
        if self._sight is not None:
            misled, _ = self._judged(policy, temperature, self._noise, self._sight.mislead)
            agrees, swapped = (sum(verdict.strict for verdict in found) / count for found in (verdicts, misled))
        return Row(
            policy=name,
            temperature=temperature,
            matched=matched,
            reward=sum(verdict.reward for verdict in verdicts) / count,
            valid=sum(verdict.valid for verdict in verdicts) / count,
            strict=sum(verdict.strict for verdict in verdicts) / count,
            win=statistics.win_rate([mine.reward for mine in verdicts], [theirs.reward for theirs in rivals]),
            length=length,
            latent=latent,
            agrees=agrees,
            swapped=swapped,
        )

    def _judged(
        self, policy: Any, temperature: float, noise: torch.Tensor, look: Look | None = None
    ) -> tuple[list[Verdict], float]:
        look = look or (blind if self._sight is None else self._sight.look)
        answers = sample(policy, self.requests, temperature, noise, look)
        verdicts = [judge(request, answer) for request, answer in zip(self.requests, answers, strict=True)]
        return verdicts, sum(map(len, answers)) / len(answers)
