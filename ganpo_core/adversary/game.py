"""Two critics against one policy (arXiv 2601.22083, equations 11 to 20).

Each critic scores three groups of rows, and is trained to order them anchor > policy > cross:

    critic      own anchor O          policy T              cross anchor X
    chosen      reference, chosen     policy, chosen        reference, rejected
    rejected    reference, rejected   policy, rejected      reference, chosen

    critic loss   c * (pair(O, T) + kappa * pair(T, X))
    penalty       the sum or mean over critics of the divergence's answer for T
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ganpo_core.adversary.baselines import Baselines
from ganpo_core.adversary.critic import Critic, Judgement
from ganpo_core.adversary.critics import Critics
from ganpo_core.adversary.means import CROSS, GROUPS, OWN, POLICY, RunningMeans
from ganpo_core.adversary.regularizer import SIDES, LatentBatch, Reduce, Regularizer, Totals, reduce_sides
from ganpo_core.asking import ask, ask_scalar, kind_of, method_name
from ganpo_core.config import AdversaryPlan
from ganpo_core.errors import PluginError
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
    """The critics and the baselines of their scores: saved and restored whole."""

    def __init__(
        self, plan: AdversaryPlan, max_steps: int, critics: Critics, means: RunningMeans, reduce: Reduce
    ) -> None:
        super().__init__(plan, max_steps, reduce, means.values_KG.device)
        config = plan.config
        self.critics = critics
        self.baselines = Baselines(
            means, reduce, needed=plan.divergence.baseline == "group_mean" or config.form == "anchor_score"
        )
        self._alternates = config.schedule == "alternating"
        self._shares_pass = not self._alternates and config.dropout == "both"
        self._moved: Tensor | None = None

    # -- one step ----------------------------------------------------------------------------------------------------

    def begin_step(self, step: int, num_micro_batches: int, schedule_step: float) -> None:
        """Also keep what the step may have to take back."""
        super().begin_step(step, num_micro_batches, schedule_step)
        self.baselines.remember()
        self._moved = None
        if self._moves_first:
            self.critics.remember()

    @property
    def _moves_first(self) -> bool:
        """True where critics are updated before the policy's gradient is known."""
        return self._alternates

    @property
    def looks_ahead(self) -> bool:
        """Baselines that depend on the whole step, and critics that move first, need a pass of their own."""
        return self._alternates or (self.baselines.settle_first and self.num_micro_batches > 1)

    def prepare(self, window: Sequence[LatentBatch], totals: Totals, metrics: MetricSums) -> None:
        """Settle the step's baselines from all of its scores; with `alternating`, train the critics on them."""
        if self.baselines.settle_first and len(window) > 1:
            with torch.no_grad():
                for batch in window:
                    self.baselines.count([side.groups() for side in self._judge_sides(batch)])
            self.baselines.settle()
        if self._alternates:
            for batch in window:
                self._train_critics(batch, self._judge_sides(batch), totals, metrics)
            self._moved = self.critics.gather()
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

    def settle(self) -> dict[str, Tensor]:
        """Also the critics' gradients, whether or not they have moved already, and the means."""
        square = self._moved if self._moves_first else self.critics.gather()
        square = self.critics.waiting() if square is None else square
        found = super().settle() if square is None else {**super().settle(), f"{self.prefix} critics' gradient": square}
        return {**found, f"{self.prefix} running means": self.baselines.at_stake()}

    def undo_step(self) -> None:
        """Critics and means are what they were, bit for bit."""
        super().undo_step()
        self.baselines.undo()
        self.critics.undo()
        if not self._moves_first:
            self.critics.drop_gradients()

    def finish_step(self, metrics: MetricSums) -> None:
        """Step the critics (unless they moved first) and commit the running means."""
        super().finish_step(metrics)
        if not self._moves_first:
            self._step_critics()
        self.baselines.finish_step()

    def view(self, latents: Latents) -> Latents:
        """Without a mask, padding is scored too: the released script's oddity."""
        seen = super().view(latents)
        return seen if self.plan.config.masked else Latents(seen.states, torch.ones_like(seen.mask))

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
        self.critics.set_dropout(self.plan.config.dropout == "both")
        sides = self._judge_sides(batch, cross=False)
        self.critics.set_dropout(True)
        return sides

    def _judge(self, batch: LatentBatch, side: int, cross: bool) -> SideScores:
        groups = [batch.reference_side(side), batch.policy_side(side)]
        if cross:
            groups.append(batch.reference_side(1 - side))
        judged = self.critics[side](_stack(groups), self.plan.config.form == "feature_matching")
        self.noted(f"{self.critics[side].name}.forward", judged.scores)
        parts = _split(judged, len(groups))
        return SideScores(parts[OWN], parts[POLICY], parts[CROSS] if cross else None)

    # -- losses ------------------------------------------------------------------------------------------------------

    def _train_critics(
        self, batch: LatentBatch, sides: Sequence[SideScores], totals: Totals, metrics: MetricSums
    ) -> None:
        """Accumulate the critics' gradients of this micro-batch, and note how they are doing."""
        share = totals.pair_share(batch)
        live = self.baselines.live_shares()
        self.baselines.observe([side.groups() for side in sides])
        for index, side in enumerate(sides):
            loss, parts = self._critic_loss(index, side, live, batch, totals.rows_share(batch))
            for name, value in parts.items():
                metrics.add_part(f"{self.prefix}/{SIDES[index]}/{name}", value.detach() * share)
            self._note_scores(index, side, metrics)
            self.critics.accumulate(index, loss * share, retain_graph=self._shares_pass)

    def _step_critics(self) -> None:
        if (self.step + 1) % self.plan.config.step_every:
            self.critics.drop_gradients()
        else:
            self.critics.step(self.plan.divergence, self._update)

    @property
    def _update(self) -> float:
        """How many updates of the critics lie behind them, as their schedule counts."""
        return max(0.0, (self.schedule_step + 1) / self.plan.config.step_every - 1)

    def _critic_loss(
        self, index: int, side: SideScores, live: tuple[float, float, float], batch: LatentBatch, rows_K: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Its value over the micro-batch, and its parts; `rows_K` as in `Totals.rows_share`."""
        plan, means_G = self.plan, self.baselines.current[index]
        anchor = _scores(side.anchor, means_G[OWN], rows_K[index], live[OWN])
        policy = _scores(side.policy, means_G[POLICY], rows_K[index], live[POLICY])
        own = ask_scalar(plan.divergence, "critic_loss", anchor, policy)
        self.noted(method_name(plan.divergence, "critic_loss"), own)
        parts = {"critic_loss_own": own, "estimate": ask_scalar(plan.divergence, "estimate", anchor, policy)}
        loss = own
        if side.cross is not None:
            cross = _scores(side.cross, means_G[CROSS], rows_K[1 - index], live[CROSS])
            parts["critic_loss_cross"] = ask_scalar(plan.divergence, "critic_loss", policy, cross)
            loss = loss + plan.cross_weight * parts["critic_loss_cross"]
        loss = plan.config.critic_scale * loss
        critic = _ScoresOnly(self.critics[index])
        extra = ask(
            plan.divergence, "penalty", critic, batch.reference_side(index), batch.policy_side(index).detach()
        )
        if extra is not None:
            if not (isinstance(extra, Tensor) and extra.numel() == 1):
                name = method_name(plan.divergence, "penalty")
                raise PluginError(f"{name} returned {kind_of(extra)}; expected a scalar tensor, or None")
            extra = self.noted(method_name(plan.divergence, "penalty"), extra.reshape(()))
            extra = extra * (batch.num_rows[index] / rows_K[index]).to(extra)
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
        share, means_G = totals.pair_share(batch), self.baselines.current[index]
        rows = totals.rows_share(batch)[index]
        mine = _scores(side.policy, means_G[POLICY], rows)
        own = replace(_scores(side.anchor, means_G[OWN], rows), values=side.anchor.scores.detach())
        if form == "paired_score":
            return mine.average((mine.values - own.values).square()) * share
        if form == "anchor_score":
            return mine.average((mine.values - own.baseline()).square()) * share
        if form == "full":  # the original relativistic generator differentiates through the policy's own mean
            mine = replace(mine, mean=replace(mine, count=None).average(mine.values))
        answer = ask_scalar(plan.divergence, "policy_loss", mine, own, form)
        return self.noted(method_name(plan.divergence, "policy_loss"), answer) * share

    def _note_scores(self, index: int, side: SideScores, metrics: MetricSums) -> None:
        """How the groups score: the order that the critic is trained to produce, and by how much; in rows that hold anything."""
        prefix = f"{self.prefix}/{SIDES[index]}"
        for group, judged in side.groups().items():
            metrics.add(f"{prefix}/score_{GROUPS[group]}", judged.scores, judged.valid)
        _note_order(metrics, prefix, "", side.anchor, side.policy)
        if side.cross is not None:
            _note_order(metrics, prefix, "_cross", side.policy, side.cross)
        if self.plan.divergence.baseline == "group_mean":
            # Against the baseline that the policy answers to, which lags behind this batch's own mean.
            above = side.policy.scores - self.baselines.current[index, OWN]
            metrics.add(f"{prefix}/overshoot", above, side.policy.valid)

    # -- state -------------------------------------------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        """The two critics."""
        return {**self.critics.named()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything of the critics, and the running means."""
        return {**super().tensors(), **self.critics.tensors(), "means": self.baselines.means.values_KG}

    def state(self) -> dict[str, Any]:
        """Whether the means have started."""
        return {"means_started": self.baselines.means.started}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore `tensors` and `state`."""
        super().load(tensors, state)
        means = self.baselines.means
        means.values_KG = tensors["means"].to(means.values_KG)
        means.started = bool(state["means_started"])
        self.critics.load(tensors)


class _ScoresOnly(nn.Module):
    """A critic as a divergence's `penalty` sees it: states and mask in, scores out."""

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self.critic(Latents(states, mask)).scores
        return scores


def _scores(judged: Judgement, mean: Tensor, rows: Tensor, live: float = 0.0) -> Scores:
    """A group with its baseline, standing for `rows` of its step.

    `live` is the part of the baseline through which the loss is differentiated.
    """
    if live:
        average = Scores(judged.scores, judged.valid).average(judged.scores)
        mean = mean + live * (average - average.detach())
    return Scores(judged.scores, judged.valid, mean, rows.to(judged.scores.dtype))


def _note_order(metrics: MetricSums, prefix: str, pair: str, high: Judgement, low: Judgement) -> None:
    gap_N, both_N = high.scores.detach() - low.scores.detach(), high.valid & low.valid
    metrics.add(f"{prefix}/gap{pair}", gap_N, both_N)
    metrics.add(f"{prefix}/accuracy{pair}", (gap_N > 0).double(), both_N)


def _stack(groups: Sequence[Latents]) -> Latents:
    return Latents(torch.cat([group.states for group in groups]), torch.cat([group.mask for group in groups]))


def _split(judged: Judgement, num_groups: int) -> list[Judgement]:
    features = [None] * num_groups if judged.features is None else judged.features.chunk(num_groups)
    scores, valid = judged.scores.chunk(num_groups), judged.valid.chunk(num_groups)
    return [Judgement(*parts) for parts in zip(scores, valid, features, strict=True)]


def _feature_distance(anchor: Judgement, policy: Judgement, mask: Tensor) -> Tensor:
    """The mean over valid positions and features of (phi(h_policy) - phi(h_reference))^2."""
    assert anchor.features is not None and policy.features is not None
    squared = (policy.features - anchor.features.detach()).square().mean(-1)
    squared = squared.to(torch.promote_types(squared.dtype, torch.float32))
    counted = mask if squared.shape[1] == mask.shape[1] else policy.valid[:, None]
    return squared.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)
