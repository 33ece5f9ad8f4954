"""One policy of one world, measured: every answer's outcome at several temperatures, and what needs no sampling."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ganpo_core.entropy import mean_entropy, temperature_of
from ganpo_lab.held_out import HeldOutSequences
from ganpo_lab.outcomes import decode, encode
from ganpo_lab.sampling import gumbel_noise, padded, response_logits, sample
from ganpo_lab.world import Request, draw_requests, judge

TEMPERATURES = (0.5, 0.7, 1.0, 1.5)
COLDER = (0.6, 0.75, 0.82, 0.9)
"""At which the reference alone is sampled too, against its own answers at 1."""
RIVALS, POOL = 2, 4
"""Independent answers of the reference to each prompt: opponents, and others that say how hard the prompt is."""
REPLICATES = {1.0: 2}
"""Answers of a policy to each prompt at a temperature; 1 elsewhere."""

CLOSE = 1e-3
"""Relative, to which a temperature is matched on sampled answers, whose entropy is known no better."""

Kind = Literal["own", "rival", "pool"]


@dataclass(frozen=True)
class Sampling:
    """Answers of one policy to every prompt of a world."""

    kind: Kind
    at: float
    """The nominal temperature: opponents answer at it."""
    temperature: float
    """At which the answers were drawn."""
    matched: bool
    """True where that is the one at which the policy is as random as the reference is at `at`."""
    replicate: int
    """Which of several answers to each prompt."""
    earned: str
    length: str
    on_own: bool = False
    """True where it is as random on its own answers as the reference is on its own, rather than on given sequences."""

    def as_json(self) -> dict[str, Any]:
        """With the means that a reader looks for first."""
        outcomes = decode(self.earned, self.length)
        means = {name: round(float(getattr(outcomes, name).mean()), 4) for name in ("reward", "valid", "strict", "length")}
        return {
            "kind": self.kind, "at": self.at, "temperature": round(self.temperature, 6), "matched": self.matched,
            **({"on_own": True} if self.on_own else {}),
            "replicate": self.replicate, "mean": means, "earned": self.earned, "lengths": self.length,
        }

    @classmethod
    def of_json(cls, saved: Mapping[str, Any]) -> Sampling:
        """From `as_json`."""
        names = ("kind", "at", "temperature", "matched", "replicate", "earned")
        return cls(**{name: saved[name] for name in names}, length=saved["lengths"], on_own=saved.get("on_own", False))


class World:
    """The prompts and the noise of one seed: the same for every policy, so that differences are paired."""

    def __init__(self, seed: int, split: Literal["dev", "test"], num_prompts: int, held_out: HeldOutSequences) -> None:
        self.seed = seed
        self.requests: Sequence[Request] = draw_requests(split, num_prompts, random.Random(f"{seed}-evaluation"))
        self.held_out = held_out

    def of_policy(self, policy: Any) -> Iterator[Sampling]:
        """Every temperature twice: as it is, and matched to the reference's entropy."""
        matched = self.held_out.matching_temperatures(policy, TEMPERATURES)
        for at, temperature in zip(TEMPERATURES, matched, strict=True):
            for replicate in range(REPLICATES.get(at, 1)):
                yield self._drawn(policy, "own", at, at, False, replicate)
                yield self._drawn(policy, "own", at, temperature, True, replicate)

    def matched_on_own(self, policy: Any, reference: Any) -> Iterator[Sampling]:
        """Answers at the temperature at which the policy's own are as random as the reference's own at 1."""
        goal = self.own_entropy(reference)
        temperature = temperature_of(lambda at: self.own_entropy(policy, at), goal, tolerance=CLOSE)
        for replicate in range(REPLICATES[1.0]):
            yield self._drawn(policy, "own", 1.0, temperature, True, replicate, on_own=True)

    def own_entropy(self, model: Any, temperature: float = 1.0) -> float:
        """Of a model's own answers, in nats a token; drawn with luck that nobody is scored by."""
        answers = self.answers(model, temperature, RIVALS + POOL, own=False)
        return mean_entropy(response_logits(model, *padded(self.requests, answers)), temperature)

    def of_reference(self, reference: Any) -> Iterator[Sampling]:
        """As a policy, merely sampled colder, and the opponents of all policies."""
        for at in TEMPERATURES:
            for replicate in range(REPLICATES.get(at, 1)):
                yield self._drawn(reference, "own", at, at, False, replicate)
            for index in range(RIVALS + POOL):
                kind: Kind = "rival" if index < RIVALS else "pool"
                yield self._drawn(reference, kind, at, at, False, index)
        for temperature in COLDER:
            for replicate in range(REPLICATES[1.0]):
                yield self._drawn(reference, "own", 1.0, temperature, False, replicate)

    def figures(self, policy: Any) -> dict[str, float]:
        """What needs no sampling; nats per response token of held-out sequences."""
        found = {
            "entropy": self.held_out.policy_entropy(policy),
            "reference_entropy": self.held_out.entropy(),
            "divergence": self.held_out.divergence(policy),
            "shift": self.held_out.shift(policy),
            "latent": self.held_out.latent(policy),
            "output_norm": float(policy.get_output_embeddings().weight.detach().norm()),
        }
        return {name: round(value, 6) for name, value in found.items()}

    def answers(self, policy: Any, temperature: float, replicate: int, own: bool = True) -> list[list[str]]:
        """One to each prompt; the noise of opponents is independent of that of policies."""
        noise = gumbel_noise(len(self.requests), _noise_seed(self.seed, replicate, own))
        return sample(policy, self.requests, temperature, noise)

    def _drawn(
        self,
        policy: Any,
        kind: Kind,
        at: float,
        temperature: float,
        matched: bool,
        replicate: int,
        on_own: bool = False,
    ) -> Sampling:
        answers = self.answers(policy, temperature, replicate, kind == "own")
        verdicts = [judge(request, answer) for request, answer in zip(self.requests, answers, strict=True)]
        told = encode(verdicts, [len(answer) for answer in answers])
        return Sampling(kind, at, temperature, matched, replicate, *told, on_own)


def _noise_seed(seed: int, replicate: int, own: bool) -> int:
    """Far from the seeds that drew the preference pairs."""
    return 1_000_003 * (seed + 1) + 100 * (0 if own else 1) + replicate

