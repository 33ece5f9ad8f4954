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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ganpo_core.adversary.critic import Critic, Judgement
from ganpo_core.adversary.means import CROSS, GROUPS, OWN, POLICY, RunningMeans
from ganpo_core.adversary.regularizer import SIDES, LatentBatch, Reduce, Regularizer, Totals, reduce_sides
from ganpo_core.config import AdversaryPlan
from ganpo_core.errors import TrainingError
from ganpo_core.types import Latents, Scores, TokenMap

if TYPE_CHECKING:
    from ganpo_core.metrics import MetricSums


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
        super().__init__(plan, max_steps, reduce)
        self.critics = tuple(critics)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.means = means
        self._sums_KG2: Tensor | None = None
        self._baselines_KG: Tensor | None = None
        config = plan.config
        self._alternates = config.schedule == "alternating"
        self._shares_pass = not self._alternates and config.dropout == "both"
        self._has_means = plan.divergence.baseline == "group_mean" or config.form == "anchor_score"
        self._waits_for_step = config.means_clock == "step"

    # -- one step ----------------------------------------------------------------------------------------------------

    @property
    def looks_ahead(self) -> bool:
        """Baselines that depend on the whole step, and critics that move first, need a pass of their own."""
        return self._alternates or (self._settles_first and self.num_micro_batches > 1)

    def prepare(self, window: Sequence[LatentBatch], totals: Totals, metrics: MetricSums) -> None:
        """Settle the step's baselines from all of its scores; with `alternating`, train the critics on them."""
        if self._settles_first and len(window) > 1:
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
            sides = self._judge_for_policy(batch)
        return self._answers(batch, sides, totals, metrics)

    def _answers(
        self, batch: LatentBatch, sides: Sequence[SideScores], totals: Totals, metrics: MetricSums
    ) -> Tensor:
        answers = [self._answer(index, side, batch, totals) for index, side in enumerate(sides)]
        for index, answer in enumerate(answers):
            metrics.add_part(f"{self.prefix}/{SIDES[index]}/policy_loss", answer)
        return reduce_sides(answers, self.plan)

    def finish_step(self, metrics: MetricSums) -> None:
        """Step the critics (unless they moved first) and commit the running means."""
        super().finish_step(metrics)
        if not self._alternates:
            self._step_critics()
        if self._has_means and self._waits_for_step:
            assert self._sums_KG2 is not None
            self.means.commit(self._sums_KG2 if self._settled else self._reduced(self._sums_KG2))
        self._sums_KG2 = self._baselines_KG = None

    def view(self, latents: Latents) -> Latents:
        """Without a mask, padding is scored too: the released script's oddity."""
        return latents if self.plan.config.masked else Latents(latents.states, torch.ones_like(latents.mask))

    def count(self, tokens: TokenMap) -> Tensor:
        """As the base class, but all positions without a mask."""
        if self.plan.config.masked:
            return super().count(tokens)
        return torch.full((2,), tokens.valid.numel() / 2, dtype=torch.float64, device=tokens.valid.device)

    # -- scores ------------------------------------------------------------------------------------------------------

    def _judge_sides(self, batch: LatentBatch, cross: bool = True) -> tuple[SideScores, SideScores]:
        """Each critic's scores of its groups, in one forward pass a critic."""
        cross = cross and self.plan.cross_weight > 0
        return (self._judge(batch, 0, cross), self._judge(batch, 1, cross))

    def _judge_for_policy(self, batch: LatentBatch) -> tuple[SideScores, SideScores]:
        """A pass of its own for the policy's answer, with the critics' dropout as configured."""
        for critic in self.critics:
            critic.set_dropout(self.plan.config.dropout == "both")
        sides = self._judge_sides(batch, cross=False)
        for critic in self.critics:
            critic.set_dropout(True)
        return sides

    def _judge(self, batch: LatentBatch, side: int, cross: bool) -> SideScores:
        groups = [batch.reference_side(side), batch.policy_side(side)]
        if cross:
            groups.append(batch.reference_side(1 - side))
        judged = self.critics[side](_stack(groups), self.plan.config.form == "feature_matching")
        parts = _split(judged, len(groups))
        return SideScores(parts[OWN], parts[POLICY], parts[CROSS] if cross else None)

    # -- baselines ---------------------------------------------------------------------------------------------------

    @property
    def _settles_first(self) -> bool:
        """True where this step's baselines depend on its own scores."""
        return self._has_means and self._waits_for_step and self.means.needs_step_sums

    @property
    def _settled(self) -> bool:
        return self._baselines_KG is not None

    def _reduced(self, sums_KG2: Tensor) -> Tensor:
        return self._reduce(sums_KG2) if self.plan.config.means_reduce == "global" else sums_KG2

    def _count(self, sides: Sequence[SideScores]) -> Tensor:
        """Add this micro-batch's scores to the step's (sum, count) table, [K, G, 2]; returns its own."""
        table = self.means.values_KG.new_zeros(2, 3, 2)
        for index, side in enumerate(sides):
            for group, judged in side.groups().items():
                values = judged.scores.detach().masked_fill(~judged.valid, 0.0)
                table[index, group] = torch.stack([values.sum(), judged.valid.sum().to(values)]).to(table)
        self._sums_KG2 = table if self._sums_KG2 is None else self._sums_KG2 + table
        return table

    def _settle(self) -> None:
        """Fix the step's baselines from the sums counted so far."""
        assert self._sums_KG2 is not None
        self._sums_KG2 = self._reduced(self._sums_KG2)
        self._baselines_KG = self.means.for_step(self._sums_KG2)

    def _observe(self, sides: Sequence[SideScores]) -> None:
        """Let a micro-batch's scores count, once, and settle the baselines where they wait for nothing more."""
        if not self._has_means:
            return
        if not self._waits_for_step:
            table = self._reduced(self._count(sides))
            self._baselines_KG = self.means.for_step(table)
            self.means.commit(table)
        elif not self._settled:
            self._count(sides)
            if self.means.needs_step_sums:  # the step is this one micro-batch, else `prepare` would have settled it
                self._settle()

    @property
    def _current(self) -> Tensor:
        return self.means.values_KG if self._baselines_KG is None else self._baselines_KG

    # -- losses ------------------------------------------------------------------------------------------------------

    def _train_critics(
        self, batch: LatentBatch, sides: Sequence[SideScores], totals: Totals, metrics: MetricSums
    ) -> None:
        """Accumulate the critics' gradients of this micro-batch, and note how they are doing."""
        share = totals.pair_share(batch)
        live = self.means.live_shares() if self.plan.config.means_detach == "policy" else (0.0, 0.0, 0.0)
        self._observe(sides)
        for index, side in enumerate(sides):
            loss, parts = self._critic_loss(index, side, live, batch)
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
        self, index: int, side: SideScores, live: tuple[float, float, float], batch: LatentBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        plan, means_G = self.plan, self._current[index]
        anchor = _scores(side.anchor, means_G[OWN], live[OWN])
        policy = _scores(side.policy, means_G[POLICY], live[POLICY])
        own = plan.divergence.critic_loss(anchor, policy)
        parts = {"critic_loss_own": own, "estimate": plan.divergence.estimate(anchor, policy)}
        loss = own
        if side.cross is not None:
            cross = _scores(side.cross, means_G[CROSS], live[CROSS])
            parts["critic_loss_cross"] = plan.divergence.critic_loss(policy, cross)
            loss = loss + plan.cross_weight * parts["critic_loss_cross"]
        loss = plan.config.critic_scale * loss
        extra = plan.divergence.penalty(
            _ScoresOnly(self.critics[index]), batch.reference_side(index), batch.policy_side(index).detach()
        )
        if extra is not None:
            parts["critic_penalty"] = extra
            loss = loss + extra
        return loss, {**parts, "critic_loss": loss}

    def _answer(self, index: int, side: SideScores, batch: LatentBatch, totals: Totals) -> Tensor:
        """One critic's part of the penalty; gradients reach the policy's latents alone."""
        plan, form = self.plan, self.plan.config.form
        if form == "feature_matching":
            features = side.policy.features
            assert features is not None
            distance = _feature_distance(side.anchor, side.policy, batch.policy_side(index).mask)
            return distance * totals.share(batch, index, features.shape[1])
        share, means_G = totals.pair_share(batch), self._current[index]
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
        if (self.step + 1) % self.plan.config.step_every:
            self._drop_gradients()
            return
        weights = [weight for critic in self.critics for weight in critic.parameters() if weight.grad is not None]
        if not weights or self.optimizer is None:
            return
        flat = self._reduce(torch.cat([weight.grad.flatten() for weight in weights]))  # type: ignore[union-attr]
        if not math.isfinite(float(flat.square().sum())):
            raise TrainingError(
                f"{self.prefix}: the gradient of a critic is not finite; neither it nor the policy was updated. "
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
        self._drop_gradients()
        with torch.no_grad():
            for critic in self.critics:
                critic.step_spectral_norms()
                self.plan.divergence.project(critic)

    def _drop_gradients(self) -> None:
        for critic in self.critics:
            critic.zero_grad(set_to_none=True)

    # -- state -------------------------------------------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        """The two critics."""
        return dict(zip(SIDES, self.critics, strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers of both critics, their optimizer's moments, and the running means."""
        found = {**super().tensors(), "means": self.means.values_KG}
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
        super().load(tensors, state)
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


def _scores(judged: Judgement, mean: Tensor, live: float = 0.0) -> Scores:
    """A group with its baseline; `live` is the part of the baseline through which the loss is differentiated."""
    scores = Scores(judged.scores, judged.valid, mean)
    if not live:
        return scores
    average = scores.average(scores.values)
    return Scores(judged.scores, judged.valid, mean + live * (average - average.detach()))


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
