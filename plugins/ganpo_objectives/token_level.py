"""Losses that look at single tokens or at whole next-token distributions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ganpo_core import NonNegativeFloat, PairLogps, PositiveFloat, TokenLogps
from ganpo_objectives.differences import changed_tokens
from ganpo_objectives.pairwise import Pairwise
from ganpo_objectives.stages import MAX_EXPONENT, reweighted


def summed(tokens: TokenLogps, statistic: str) -> Tensor:
    """[B], a token statistic summed over the response."""
    values = tokens.statistics[statistic]
    return values.to(tokens.whole.dtype).masked_fill(~tokens.mask, 0.0).sum(-1)


def averaged(tokens: TokenLogps, statistic: str) -> Tensor:
    """[B], the mean of a token statistic over the response."""
    return summed(tokens, statistic) / tokens.length.clamp(min=1)


@dataclass(frozen=True)
class TDPO1(Pairwise):
    """Token-level DPO: the margin pays for the divergence that the policy builds up along each response.

        margin = beta * (rho - (K_rejected - K_chosen)),   K = sum over positions of KL[pi_ref || pi]

    Source: arXiv 2404.11999.
    TRL: none.
    When: the KL to the reference should be balanced between the two responses.
    """

    token_statistics = frozenset({"reference_kl"})

    def metrics(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        return {f"kl_{name}": summed(getattr(policy, name), "reference_kl") for name in ("chosen", "rejected")}

    def margin(self, rho: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        return self.beta * (rho - (summed(policy.rejected, "reference_kl") - summed(policy.chosen, "reference_kl")))


@dataclass(frozen=True)
class TDPO2(TDPO1):
    """Token-level DPO with a stopped gradient: the chosen response's divergence is a yardstick, not a target.

        margin = beta * (rho - alpha (K_rejected - sg[K_chosen])),   K = sum over positions of KL[pi_ref || pi]

    Source: arXiv 2404.11999.
    TRL: none.
    When: as `tdpo1`; the authors' preferred form.
    """

    known_as: ClassVar = {"tdpo": "arXiv 2404.11999"}

    alpha: NonNegativeFloat = 0.5
    """Weight of the difference of divergences; 0 is DPO."""

    def margin(self, rho: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        chosen, rejected = (summed(side, "reference_kl") for side in (policy.chosen, policy.rejected))
        return self.beta * (rho - self.alpha * (rejected - chosen.detach()))


@dataclass(frozen=True)
class WPO(Pairwise):
    """Weighted preference optimization: pairs count as much as the policy would have written them itself.

        loss = softplus(-margin) * sg[w(chosen) w(rejected)]
        w(y) = exp(mean over tokens of (log pi(y_t) - log sum_v pi(v)^2))

    Source: arXiv 2406.11827.
    TRL: `use_weighting=True`.
    Departs: TRL 1.16 does not cut the weight off at 1 (`clamp: null`); the authors' code does.
    When: the pairs were written by another model.
    """

    stops_gradient = True
    matters_with: ClassVar = {"clamp": {"clamp": 0.01}}

    token_statistics = frozenset({"log_sum_sq_probs"})

    beta: PositiveFloat = 0.01
    """Reward per nat of log-ratio."""
    clamp: PositiveFloat | None = 1.0
    """Largest weight of a pair; null for none."""

    def weight(self, policy: PairLogps) -> Tensor:
        """[B], w(chosen) w(rejected), a constant."""
        exponents = [
            side.mean - averaged(side, "log_sum_sq_probs") for side in (policy.chosen, policy.rejected)
        ]
        weight = torch.stack(exponents).sum(0).detach().exp()
        return weight if self.clamp is None else weight.clamp(max=self.clamp)

    def finish(self, per_pair: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        return per_pair * self.weight(policy)

    def metrics(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        weight = self.weight(policy)
        return {"weight": weight} if self.clamp is None else {"weight": weight, "clamped": (weight >= self.clamp).double()}


@dataclass(frozen=True)
class MallowsDPO(Pairwise):
    """Mallows-DPO: prompts to which the reference gives scattered answers count less.

        margin = beta phi rho,   phi = -dispersion * log((H(chosen) + H(rejected)) / 2)
        H(y)   = mean over tokens of the entropy of pi_ref, as a part of the logarithm of the vocabulary

    Source: arXiv 2405.14953.
    TRL: none.
    When: the data mix questions of fact with questions of taste.
    """

    known_as: ClassVar = {"mallows_ipo": "arXiv 2405.14953: link_function: squared"}
    token_statistics = frozenset({"normalized_entropy"})

    dispersion: PositiveFloat = 0.29
    """phi*, which makes phi about 1 on average: 0.29 was found for Llama 3."""
    link_function: Literal["logistic", "squared"] = "logistic"
    """`squared` is Mallows-IPO: (phi rho - 1 / (2 beta))^2."""

    def scale(self, reference: PairLogps) -> Tensor:
        """[B], phi of each prompt, from both of its responses."""
        sides = (reference.chosen, reference.rejected)
        entropy = torch.stack([averaged(side, "normalized_entropy") for side in sides]).mean(0)
        return -self.dispersion * torch.log(entropy.clamp(1e-6, 1.0))

    def margin(self, rho: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        assert reference is not None
        scaled = self.scale(reference).detach() * rho
        return scaled if self.link_function == "squared" else self.beta * scaled

    def cost(self, margin: Tensor) -> Tensor:
        if self.link_function == "squared":
            return (margin - 1 / (2 * self.beta)).square()
        return super().cost(margin)

    def metrics(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        return {} if reference is None else {"dispersion": self.scale(reference)}


@dataclass(frozen=True)
class BMC(Pairwise):
    """Bridging and modeling correlations: tokens in which the two responses differ count more, the unsure ones most.

        z = sum over tokens of w_t log pi/pi_ref,   w_t = 1 + min(1 / pi(y_t), delta) where the responses differ, else 1

    Tokens differ that are outside of the longest common subsequence.

    Source: arXiv 2408.07471; its bridging phase rewrites the data and is not part of the loss.
    TRL: none.
    Departs: the authors' code weighs each model's tokens by its own confidence (`weights_from: own`), the paper by the
    policy's.
    When: chosen responses are edits of rejected ones.
    """

    stops_gradient = True

    needs = frozenset({"token_ids"})

    beta: PositiveFloat = 0.05
    """Reward per nat of log-ratio."""
    delta: PositiveFloat = 2.0
    """Largest additional weight of a token; published runs use 1.5 to 3."""
    weights_from: Literal["policy", "own"] = "policy"
    """Whose confidence weighs the reference's tokens."""
    ignored_tokens: tuple[int, ...] = ()
    """Token ids that never count as a difference: stop words."""

    def weigh(self, policy: PairLogps, anchor: PairLogps | None) -> tuple[PairLogps, PairLogps | None]:
        ids = (policy.chosen.token_ids, policy.rejected.token_ids)
        if ids[0] is None or ids[1] is None:
            raise ValueError("bmc compares token ids: `TokenLogps.token_ids` is missing")
        changed = changed_tokens(ids[0], policy.chosen.mask, ids[1], policy.rejected.mask, self.ignored_tokens)

        def weighed(tokens: TokenLogps, by: TokenLogps, differs: Tensor) -> TokenLogps:
            extra = torch.exp((-by.whole.detach()).clamp(max=MAX_EXPONENT)).clamp(max=self.delta)
            return reweighted(tokens, 1 + differs * extra)

        def both(pairs: PairLogps) -> PairLogps:
            by = policy if self.weights_from == "policy" else pairs
            return PairLogps(
                weighed(pairs.chosen, by.chosen, changed[0]), weighed(pairs.rejected, by.rejected, changed[1])
            )

        return both(policy), None if anchor is None else both(anchor)
