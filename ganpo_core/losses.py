"""The objective's value of a micro-batch, of pairs or of single responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ganpo_core.answers import ask_loss
from ganpo_core.components import Objective
from ganpo_core.data import PairBatch
from ganpo_core.types import PairLogps, PairLoss, ResponseLoss, TokenLogps

Scored = tuple[PairBatch, PairLogps, PairLogps | None]
"""A micro-batch under the policy and under the reference."""


@dataclass(frozen=True)
class Losses:
    """What the objective says of B pairs or single responses."""

    per_item: Tensor
    """[B], differentiable."""
    metrics: Mapping[str, Tensor]
    """One-dimensional each, under TRL's names; the objective's own as `objective/NAME`."""


def objective_losses(
    objective: Objective,
    batch: PairBatch,
    policy: PairLogps,
    reference: PairLogps | None,
    known: Mapping[str, Tensor],
    count: int | None = None,
) -> Losses:
    """The objective's value; `known` are its `batch_statistics`; metrics are of the first `count` items.

    Raises PluginError for anything that is not [B].
    """
    if batch.desirable is None:
        given = replace(policy, batch=known, preference=batch.preference)
        loss = ask_loss(objective, "loss", PairLoss, batch.num_pairs, given, reference)
        margin = loss.chosen_reward - loss.rejected_reward
        metrics = {
            "objective_loss": loss.per_pair,
            "rewards/chosen": loss.chosen_reward,
            "rewards/rejected": loss.rejected_reward,
            "rewards/margins": margin,
            "rewards/accuracies": (margin > 0).double(),
            "logps/chosen": policy.chosen.total,
            "logps/rejected": policy.rejected.total,
            "lengths/chosen": policy.chosen.length,
            "lengths/rejected": policy.rejected.length,
            **_named(loss.metrics),
        }
        if reference is not None:
            metrics["shifts/chosen"] = policy.chosen.total - reference.chosen.total
            metrics["shifts/rejected"] = policy.rejected.total - reference.rejected.total
        return Losses(loss.per_pair, {name: values[:count] for name, values in metrics.items()})
    mine, theirs = single(policy, batch), None if reference is None else single(reference, batch)
    answer = ask_loss(
        objective, "loss_unpaired", ResponseLoss, batch.num_pairs, replace(mine, batch=known), theirs, batch.desirable
    )
    good, reward, total = batch.desirable[:count], answer.reward[:count], mine.total[:count]
    metrics = {
        "objective_loss": answer.per_response[:count],
        "rewards/chosen": reward[good],
        "rewards/rejected": reward[~good],
        "logps/chosen": total[good],
        "logps/rejected": total[~good],
        "lengths/chosen": mine.length[:count][good],
        "lengths/rejected": mine.length[:count][~good],
        **{name: values[:count] for name, values in _named(answer.metrics).items()},
    }
    if theirs is not None:
        shift = total - theirs.total[:count]
        metrics |= {"shifts/chosen": shift[good], "shifts/rejected": shift[~good]}
    return Losses(answer.per_response, metrics)


def single(pairs: PairLogps, batch: PairBatch) -> TokenLogps:
    """The single responses of unpaired data, in the order of the batch."""
    assert batch.desirable is not None
    desirable = batch.desirable[:, None]
    chosen, rejected = pairs.chosen, pairs.rejected
    ids = None
    if chosen.token_ids is not None and rejected.token_ids is not None:
        ids = torch.where(desirable, chosen.token_ids, rejected.token_ids)
    return TokenLogps(
        torch.where(desirable, chosen.logps, rejected.logps),
        torch.where(desirable, chosen.mask, rejected.mask),
        {name: torch.where(desirable, values, rejected.statistics[name]) for name, values in chosen.statistics.items()},
        ids,
    )


def _named(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"objective/{name}": values for name, values in metrics.items()}
