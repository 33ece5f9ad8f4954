"""Losses with a likelihood term of the chosen response: SFT, and what is added to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ganpo_core import (
    BatchStatistic,
    Need,
    NonNegativeFloat,
    Objective,
    PairLogps,
    PairLoss,
    PositiveFloat,
    TokenLogps,
)
from ganpo_objectives.pairwise import Pairwise
from ganpo_objectives.stages import Averaging, cost, log1mexp, negative_log_likelihood


@dataclass(frozen=True)
class Likelihood(Objective):
    """What losses with a likelihood term share: how it is averaged, and the tokens of the step where it is over those."""

    needs_reference = False

    sft_norm: Averaging = "seq_mean"
    """How the likelihood term is averaged: per token of each response, per token of the step, or summed."""

    @property
    def batch_statistics(self) -> Mapping[str, BatchStatistic]:  # type: ignore[override]
        """The step's tokens, where they are averaged over."""
        return {"chosen_length": "lengths"} if self.sft_norm == "token_mean" else {}

    def batch_values(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        return {"chosen_length": self.imitated(policy).length}

    def imitated(self, policy: PairLogps) -> TokenLogps:
        """The tokens whose likelihood counts."""
        return policy.chosen

    def nll(self, policy: PairLogps) -> Tensor:
        """[B], the negative log-likelihood of what is imitated."""
        return negative_log_likelihood(self.imitated(policy), self.sft_norm, policy.batch.get("chosen_length"))


@dataclass(frozen=True)
class SFT(Likelihood):
    """Supervised fine-tuning on the chosen responses.

        loss = -(sum of log pi(chosen) over the step) / (its chosen tokens), the same for each pair

    Source: maximum likelihood; as an objective beside others it is arXiv 2411.10442's generation loss.
    TRL: `loss_type="sft"`.
    Departs: TRL averages over the tokens of a micro-batch, here of the whole step, however it is split.
    When: before preference optimization, or as a part of `weighted`.
    """

    sft_norm: Averaging = "token_mean"
    """Per token of the step, per token of each response, or summed."""

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        return PairLoss(self.nll(policy), policy.chosen.mean.detach(), policy.rejected.mean.detach())


@dataclass(frozen=True)
class WithLikelihood(Likelihood, Pairwise):
    """A pairwise loss and a share of the chosen response's negative log-likelihood."""

    @property
    def share(self) -> float:
        """Weight of the likelihood term."""
        raise NotImplementedError

    def finish(self, per_pair: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        return per_pair + self.share * self.nll(policy)

    def metrics(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        return {"nll": self.nll(policy)}


@dataclass(frozen=True)
class RPO(WithLikelihood):
    """Regularized preference optimization: DPO and the likelihood of the chosen response.

        loss = softplus(-margin) - eta log pi(chosen)

    With `sft_norm: seq_mean`, eta 1 and beta 0.1 it is the loss of iterative reasoning preference optimization.

    Source: arXiv 2405.16436; per token, arXiv 2404.19733.
    TRL: `loss_type=["sigmoid", "sft"]` with `loss_weights=[1.0, eta]`.
    Departs: TRL's likelihood term is a mean over the batch's tokens (`sft_norm: token_mean`), the paper's a sum.
    When: DPO lowers the likelihood of the chosen responses, as on proofs and code.
    """

    known_as: ClassVar = {"irpo": "arXiv 2404.19733: beta: 0.1, eta: 1.0, sft_norm: seq_mean"}
    needs_reference = True

    beta: PositiveFloat = 0.01
    """Reward per nat of log-ratio."""
    sft_norm: Averaging = "sum"
    """How the likelihood term is averaged: the paper's sum, per token of each response, or per token of the step."""
    eta: NonNegativeFloat = 0.005
    """Weight of the likelihood term."""

    @property
    def share(self) -> float:
        """eta."""
        return self.eta


@dataclass(frozen=True)
class CPO(WithLikelihood):
    """Contrastive preference optimization: DPO without a reference, and the likelihood of the chosen response.

        loss = softplus(-beta (log pi(chosen) - log pi(rejected))) + alpha * nll(chosen)

    Source: arXiv 2401.08417.
    TRL: CPO's `loss_type="sigmoid"`, alpha is cpo_alpha.
    Departs: TRL averages the likelihood term over the tokens of a batch (`sft_norm: token_mean`).
    When: chosen responses are as good as they get, as in translation, and memory is short.
    """

    alpha: NonNegativeFloat = 1.0
    """Weight of the likelihood term."""

    @property
    def share(self) -> float:
        """alpha."""
        return self.alpha


@dataclass(frozen=True)
class ORPO(Likelihood):
    """Odds ratio preference optimization: likelihood of the chosen response, and a penalty on the ratio of odds.

        loss = nll(chosen) + lam softplus(-log(odds(chosen) / odds(rejected)))
        odds = p / (1 - p),   p = exp(log pi(y) / n)

    Source: arXiv 2403.07691.
    TRL: ORPOTrainer's loss; its `beta` is lam.
    Departs: TRL averages the likelihood term over the tokens of a batch (`sft_norm: token_mean`), and counts the prompts'
    tokens among them (`with_prompt: true`); here it is of responses alone, as in the paper.
    When: a base model is tuned and aligned in one go.
    """

    lam: NonNegativeFloat = 0.1
    """Weight of the odds ratio."""
    with_prompt: bool = False
    """Learn the prompt's tokens too, after its first."""

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """The prompts' log-probabilities, where they are learned."""
        return frozenset({"prompt"}) if self.with_prompt else frozenset()

    def imitated(self, policy: PairLogps) -> TokenLogps:
        chosen, prompt = policy.chosen, policy.prompt
        if not self.with_prompt:
            return chosen
        if prompt is None:
            raise ValueError("with_prompt needs the prompts' log-probabilities, `PairLogps.prompt`")
        return TokenLogps(torch.cat([prompt.logps, chosen.logps], 1), torch.cat([prompt.mask, chosen.mask], 1))

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        log_odds = _log_odds(policy.chosen) - _log_odds(policy.rejected)
        nll = self.nll(policy)
        chosen, rejected = (self.lam * side.mean.detach() for side in (policy.chosen, policy.rejected))
        noted = {"nll": nll, "log_odds_ratio": log_odds}
        return PairLoss(nll + self.lam * F.softplus(-log_odds), chosen, rejected, noted)


def _log_odds(tokens: TokenLogps) -> Tensor:
    mean = tokens.mean.clamp(max=-1e-6)  # a probability of exactly 1 has infinite odds
    return mean - log1mexp(mean)


@dataclass(frozen=True)
class SLiC(WithLikelihood):
    """Sequence likelihood calibration: a hinge on log-probabilities, and the likelihood of the chosen response.

        loss = max(0, delta - log pi(chosen) + log pi(rejected)) - lam log pi(chosen)

    Source: arXiv 2305.10425.
    TRL: CPO's `loss_type="hinge"` with beta=1 is the hinge alone.
    When: neither a reference nor a probabilistic model of preferences is wanted.
    """

    beta: PositiveFloat = 1.0
    """Of the log-probabilities under the hinge."""
    sft_norm: Averaging = "sum"
    """How the likelihood term is averaged over tokens."""
    delta: PositiveFloat = 1.0
    """The margin of the hinge, in nats."""
    lam: NonNegativeFloat = 0.1
    """Weight of the likelihood term."""

    @property
    def share(self) -> float:
        """lam."""
        return self.lam

    def cost(self, margin: Tensor) -> Tensor:
        return self.delta * cost("hinge", margin / self.delta)
