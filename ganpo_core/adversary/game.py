"""Two critics against one policy (arXiv 2601.22083, equations 11 to 20; METHODS B).

Each critic scores three groups of rows, and is trained to order them anchor > policy > cross:

    critic      own anchor O          policy T              cross anchor X
    chosen      reference, chosen     policy, chosen        reference, rejected
    rejected    reference, rejected   policy, rejected      reference, chosen

    critic loss   c * (pair(O, T) + kappa * pair(T, X))
    penalty       the sum or mean over critics of the divergence's answer for T
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ganpo_core.adversary.critic import Critic, Judgement
from ganpo_core.adversary.means import CROSS, GROUPS, OWN, POLICY, RunningMeans
from ganpo_core.adversary.regularizer import SIDES, LatentBatch, Regularizer, Totals, reduce_sides
from ganpo_core.config import AdversaryPlan
from ganpo_core.errors import TrainingError
from ganpo_core.types import Latents, Scores

if TYPE_CHECKING:
    from ganpo_core.metrics import MetricSums

Reduce = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes."""


@dataclass(frozen=True)
class SideScores:
    """One critic's judgement of a micro-batch, by group."""

    anchor: Judgement
    policy: Judgement
    cross: Judgement | None
    """None without a cross term."""

    def groups(self) -> dict[int, Judgement]:
        """The groups judged, by their column in the running means."""
        found = {OWN: self.anchor, POLICY: self.policy}
        return found if self.cross is None else {**found, CROSS: self.cross}


class CriticGame(Regularizer):
    """The critics, their optimizer and schedule, and their running means: saved and restored whole."""

    def __init__(
        self,
        plan: AdversaryPlan,
        max_steps: int,
        critics: Sequence[Critic],
        optimizer: torch.optim.Optimizer | None,
        scheduler: Any,
        means: RunningMeans,
        reduce: Reduce,
    ) -> None:
        super().__init__(plan, max_steps)
        self.critics = tuple(critics)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.means = means
        self._reduce = reduce
        self._sums_KG2: Tensor | None = None
        self._baselines_KG: Tensor | None = None
        config = plan.config
        self._alternates = config.schedule == "alternating"
        self._shares_pass = not self._alternates and config.dropout == "both"
        self._has_means = plan.divergence.baseline == "group_mean" or config.form == "anchor_score"

    # -- one step ----------------------------------------------------------------------------------------------------

    def looks_ahead(self, num_micro_batches: int) -> bool:
        """Baselines that depend on the whole step, and critics that move first, need a pass of their own."""
        waits = self._has_means and self.means.needs_step_sums
        return self._alternates or (waits and num_micro_batches > 1)

    def prepare(self, window: Sequence[LatentBatch], totals: Totals, metrics: MetricSums) -> None:
        """Settle the step's baselines from all of its scores; with `alternating`, train the critics on them."""
        if self._has_means and self.means.needs_step_sums and len(window) > 1:
            with torch.no_grad():
                for batch in window:
                    self._count(self._judge_sides(batch))
            self._settle()
        if self._alternates:
            for batch in window:
                self._train_critics(batch, self._judge_sides(batch), totals, metrics)
            self._step_critics()

    def penalty(self, batch: LatentBatch, totals: Totals, metrics: MetricSums) -> Tensor:
        """The policy's answer; in the `simultaneous` schedule the critics' gradients come from the same scores."""
        if not self._alternates:
            sides = self._judge_sides(batch)
            self._train_critics(batch, sides, totals, metrics)
        if not self._shares_pass:
            for critic in self.critics:
                critic.set_dropout(self.plan.config.dropout == "both")
            sides = self._judge_sides(batch, cross=False)
            for critic in self.critics:
                critic.set_dropout(True)
        answers = [self._answer(side, sides[side], totals.pair_share(batch), batch, totals) for side in range(2)]
        for side, answer in enumerate(answers):
            metrics.add_part(f"{self.prefix}/{SIDES[side]}/policy_loss", answer)
        return reduce_sides(answers, self.plan)

    def finish_step(self) -> None:
        """Step the critics (unless they moved first) and commit the running means."""
        if not self._alternates:
            self._step_critics()
        if self._has_means:
            assert self._sums_KG2 is not None
            self.means.commit(self._sums_KG2 if self._settled else self._reduce(self._sums_KG2))
        self._sums_KG2 = self._baselines_KG = None

    # -- scores ------------------------------------------------------------------------------------------------------

    def _judge_sides(self, batch: LatentBatch, cross: bool = True) -> tuple[SideScores, SideScores]:
        """Each critic's scores of its groups, in one forward pass a critic."""
        cross = cross and self.plan.cross_weight > 0
        features = self.plan.config.form == "feature_matching"
        return (self._judge(batch, 0, cross, features), self._judge(batch, 1, cross, features))

    def _judge(self, batch: LatentBatch, side: int, cross: bool, features: bool) -> SideScores:
        anchor, policy = batch.reference_side(side), batch.policy_side(side)
        groups = [anchor, policy, batch.reference_side(1 - side)] if cross else [anchor, policy]
        judged = self.critics[side](_stack(groups), features)
        parts = _split(judged, len(groups))
        return SideScores(parts[OWN], parts[POLICY], parts[CROSS] if cross else None)

    def _count(self, sides: Sequence[SideScores]) -> None:
        """Add this micro-batch's scores to the step's (sum, count) table, [K, G, 2]."""
        table = self.means.values_KG.new_zeros(2, 3, 2)
        for index, side in enumerate(sides):
            for group, judged in side.groups().items():
                values = judged.scores.detach().masked_fill(~judged.valid, 0.0)
                table[index, group] = torch.stack([values.sum(), judged.valid.sum().to(values)]).to(table)
        self._sums_KG2 = table if self._sums_KG2 is None else self._sums_KG2 + table

    def _settle(self) -> None:
        """Fix the step's baselines from the sums counted so far, over all processes."""
        assert self._sums_KG2 is not None
        self._sums_KG2 = self._reduce(self._sums_KG2)
        self._baselines_KG = self.means.for_step(self._sums_KG2)

    @property
    def _settled(self) -> bool:
        return self._baselines_KG is not None

    def _baselines(self, sides: Sequence[SideScores]) -> Tensor:
        """[K, G] for this micro-batch; counts its scores unless the whole step has been counted already."""
        if not self._has_means:
            return self.means.values_KG
        if not self._settled:
            self._count(sides)
            if self.means.needs_step_sums:  # the step is this one micro-batch, else `prepare` would have settled it
                self._settle()
        return self.means.values_KG if self._baselines_KG is None else self._baselines_KG

    # -- losses ------------------------------------------------------------------------------------------------------

    def _train_critics(
        self, batch: LatentBatch, sides: Sequence[SideScores], totals: Totals, metrics: MetricSums
    ) -> None:
        """Accumulate the critics' gradients of this micro-batch, and note how they are doing."""
        share = totals.pair_share(batch)
        means_KG = self._baselines(sides)
        for index, side in enumerate(sides):
            loss, parts = self._critic_loss(index, side, means_KG[index], batch)
            for name, value in parts.items():
                metrics.add_part(f"{self.prefix}/{SIDES[index]}/{name}", value.detach() * share)
            self._note_scores(index, side, metrics)
            weights = [weight for weight in self.critics[index].parameters() if weight.requires_grad]
            if not weights:
                continue
            gradients = torch.autograd.grad(loss * share, weights, retain_graph=self._shares_pass, allow_unused=True)
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    weight.grad = gradient if weight.grad is None else weight.grad + gradient

    def _critic_loss(
        self, index: int, side: SideScores, means_G: Tensor, batch: LatentBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        plan = self.plan
        anchor, policy = _scores(side.anchor, means_G[OWN]), _scores(side.policy, means_G[POLICY])
        own = plan.divergence.critic_loss(anchor, policy)
        parts = {"critic_loss_own": own, "estimate": plan.divergence.estimate(anchor, policy)}
        loss = own
        if side.cross is not None:
            parts["critic_loss_cross"] = plan.divergence.critic_loss(policy, _scores(side.cross, means_G[CROSS]))
            loss = loss + plan.cross_weight * parts["critic_loss_cross"]
        loss = plan.config.critic_scale * loss
        extra = plan.divergence.penalty(
            _ScoresOnly(self.critics[index]), batch.reference_side(index), batch.policy_side(index).detach()
        )
        if extra is not None:
            parts["critic_penalty"] = extra
            loss = loss + extra
        return loss, {**parts, "critic_loss": loss}

    def _answer(self, index: int, side: SideScores, share: float, batch: LatentBatch, totals: Totals) -> Tensor:
        """One critic's part of the penalty; gradients reach the policy's latents alone."""
        plan, form = self.plan, self.plan.config.form
        if form == "feature_matching":
            features = side.policy.features
            assert features is not None
            distance = _feature_distance(side.anchor, side.policy, batch.policy_side(index).mask)
            return distance * totals.share(batch, index, features.shape[1])
        means_G = self._baselines_KG[index] if self._baselines_KG is not None else self.means.values_KG[index]
        mine = _scores(side.policy, means_G[POLICY])
        own = Scores(side.anchor.scores.detach(), side.anchor.valid, means_G[OWN])
        if form == "paired_score":
            return mine.average((mine.values - own.values).square()) * share
        if form == "anchor_score":
            return mine.average((mine.values - own.baseline()).square()) * share
        if form == "full":  # the original relativistic generator differentiates through the policy's own mean
            mine = Scores(mine.values, mine.valid, mine.average(mine.values))
        return plan.divergence.policy_loss(mine, own, form) * share

    def _note_scores(self, index: int, side: SideScores, metrics: MetricSums) -> None:
        for group, judged in side.groups().items():
            metrics.add(f"{self.prefix}/{SIDES[index]}/score_{GROUPS[group]}", judged.scores)
        gap = (side.anchor.scores - side.policy.scores).detach()
        metrics.add(f"{self.prefix}/{SIDES[index]}/gap", gap)
        metrics.add(f"{self.prefix}/{SIDES[index]}/accuracy", (gap > 0).double())

    # -- the critics' own step ---------------------------------------------------------------------------------------

    def _step_critics(self) -> None:
        weights = [weight for critic in self.critics for weight in critic.parameters() if weight.grad is not None]
        if not weights or self.optimizer is None:
            return
        flat = self._reduce(torch.cat([weight.grad.flatten() for weight in weights]))  # type: ignore[union-attr]
        if not math.isfinite(float(flat.square().sum())):
            raise TrainingError(
                f"{self.prefix}: the gradient of a critic is not finite; nothing was updated. "
                "Lower adversary.learning_rate, or check the latents with `norm: rms`"
            )
        start = 0
        for weight in weights:
            weight.grad = flat[start : start + weight.numel()].view_as(weight)
            start += weight.numel()
        if self.plan.config.max_grad_norm is not None:
            for critic in self.critics:
                nn.utils.clip_grad_norm_(critic.parameters(), self.plan.config.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for critic in self.critics:
                critic.step_spectral_norms()
                self.plan.divergence.project(critic)

    # -- state -------------------------------------------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        """The two critics."""
        return dict(zip(SIDES, self.critics, strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers of both critics, their optimizer's moments, and the running means."""
        found = {"means": self.means.values_KG}
        for side, critic in self.modules().items():
            found |= {f"{side}.{name}": tensor for name, tensor in critic.state_dict().items()}
            for name, weight in critic.named_parameters():
                moments = self.optimizer.state.get(weight, {}) if self.optimizer is not None else {}
                found |= {f"optimizer.{side}.{name}.{key}": value for key, value in moments.items()}
        return found

    def state(self) -> dict[str, Any]:
        """Whether the means have started, and where the schedule stands."""
        schedule = self.scheduler.state_dict() if self.scheduler is not None else {}
        return {"means_started": self.means.started, "schedule": _plain_schedule(schedule)}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore `tensors` and `state`."""
        self.means.values_KG = tensors["means"].to(self.means.values_KG)
        self.means.started = bool(state["means_started"])
        for side, critic in self.modules().items():
            prefix = f"{side}."
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            critic.load_state_dict(own)
            if self.optimizer is None:
                continue
            for name, weight in critic.named_parameters():
                prefix = f"optimizer.{side}.{name}."
                moments = {
                    key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
                }
                if moments:
                    self.optimizer.state[weight] = {
                        key: value if key == "step" else value.to(weight) for key, value in moments.items()
                    }
        if self.scheduler is not None:
            self.scheduler.load_state_dict({**self.scheduler.state_dict(), **state["schedule"]})
            for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):  # type: ignore[union-attr]
                group["lr"] = rate


class _ScoresOnly(nn.Module):
    """A critic as a divergence's `penalty` sees it: states and mask in, scores out."""

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self.critic(Latents(states, mask)).scores
        return scores


def _plain_schedule(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a scheduler's state that move; its functions are made again from the run file."""
    return {key: schedule[key] for key in ("last_epoch", "_step_count", "_last_lr") if key in schedule}


def _scores(judged: Judgement, mean: Tensor) -> Scores:
    return Scores(judged.scores, judged.valid, mean)


def _stack(groups: Sequence[Latents]) -> Latents:
    return Latents(torch.cat([group.states for group in groups]), torch.cat([group.mask for group in groups]))


def _split(judged: Judgement, num_groups: int) -> list[Judgement]:
    features = [None] * num_groups if judged.features is None else judged.features.chunk(num_groups)
    scores, valid = judged.scores.chunk(num_groups), judged.valid.chunk(num_groups)
    return [Judgement(*parts) for parts in zip(scores, valid, features, strict=True)]


def _feature_distance(anchor: Judgement, policy: Judgement, mask: Tensor) -> Tensor:
    """The mean over valid positions and features of (phi(h_policy) - phi(h_reference))^2 (METHODS B.5)."""
    assert anchor.features is not None and policy.features is not None
    squared = (policy.features - anchor.features.detach()).square().mean(-1)
    squared = squared.to(torch.promote_types(squared.dtype, torch.float32))
    counted = mask if squared.shape[1] == mask.shape[1] else policy.valid[:, None]
    return squared.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)
