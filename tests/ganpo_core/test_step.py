"""One optimizer step: what it leaves alone, what adds up, and what stops it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from run_files import SMALL_GAME
from torch import Tensor

from ganpo_core.assemble import assemble
from ganpo_core.config import load_run
from ganpo_core.errors import TrainingError
from ganpo_core.metrics import MetricSums
from ganpo_core.run import Run
from ganpo_core.step import train_step

MakeRun = Callable[..., dict[str, Any]]


def made(run_file: dict[str, Any]) -> Run:
    return assemble(load_run(run_file), Accelerator(cpu=True))


def trained(run: Run, steps: int) -> dict[str, Tensor]:
    """Everything that training changes, after some steps."""
    metrics = MetricSums(run.models.device)
    for step in range(steps):
        train_step(run, run.window(step), step, metrics)
    policy = {name: weight.detach().clone() for name, weight in run.models.trainable().items()}
    return policy | {f"adversary.{n}": t.detach().clone() for r in run.regularizers for n, t in r.tensors().items()}


def training(**options: Any) -> dict[str, Any]:
    return {"learning_rate": 1e-3, "max_steps": 8, "per_device_train_batch_size": 4, **options}


def test_weight_zero_is_plain_preference_optimisation_bit_for_bit(tiny_run: MakeRun) -> None:
    plain = trained(made(tiny_run()), 3)
    zero = trained(made(tiny_run(**SMALL_GAME, adversary={"weight": 0})), 3)
    assert plain.keys() == zero.keys()
    assert all(torch.equal(plain[name], zero[name]) for name in plain)


def test_a_positive_weight_changes_the_policy(tiny_run: MakeRun) -> None:
    plain = trained(made(tiny_run()), 3)
    some = trained(made(tiny_run(**SMALL_GAME, adversary={"weight": 1, "weight_warmup_ratio": 0})), 3)
    assert any(not torch.equal(plain[name], some[name]) for name in plain)


def test_the_reference_is_not_loaded_where_nobody_reads_it(tiny_run: MakeRun) -> None:
    assert made(tiny_run(objective={"use": "simpo"})).models.reference is None
    assert made(tiny_run(objective={"use": "simpo"}, **SMALL_GAME)).models.reference is not None
    assert made(tiny_run(objective={"use": "simpo"}, **SMALL_GAME, adversary={"weight": 0})).models.reference is None


@pytest.mark.parametrize(
    "regularizer",
    [
        {},
        {"latents": {"use": "hidden_state"}, "divergence": {"use": "mse"}},
        {**SMALL_GAME, "adversary": {"preset": "ganpo", "weight_warmup_ratio": 0}},
        {**SMALL_GAME, "adversary": {"preset": "ganpo", "form": "non_saturating", "weight_warmup_ratio": 0}},
        {**SMALL_GAME, "adversary": {"preset": "paper"}},
        {**SMALL_GAME, "adversary": {"means": "none", "form": "minimax", "weight_warmup_ratio": 0}},
        {**SMALL_GAME, "latents": {"use": "pooled"}, "adversary": {"weight_warmup_ratio": 0}},
    ],
    ids=["plain", "mse", "ganpo", "non_saturating", "paper", "batch_means", "pooled"],
)
def test_accumulation_changes_nothing(regularizer: dict[str, Any], tiny_run: MakeRun) -> None:
    """1 x 8 and 8 x 1 pairs a step: policy, critics, their moments and the running means agree after 3 steps."""
    model = {"path": tiny_run()["model"]["path"], "dtype": "float64"}
    whole = training(per_device_train_batch_size=8)
    parts = training(per_device_train_batch_size=1, gradient_accumulation_steps=8)
    one = trained(made(tiny_run(model=model, training=whole, **regularizer)), 3)
    eight = trained(made(tiny_run(model=model, training=parts, **regularizer)), 3)
    assert one.keys() == eight.keys()
    for name in one:
        torch.testing.assert_close(one[name], eight[name], rtol=1e-7, atol=1e-9, msg=name)


def test_gradients_are_cut_at_the_latents(tiny_run: MakeRun) -> None:
    """A step leaves no gradient behind, trains the policy though critics are frozen, and never moves the reference."""
    run = made(tiny_run(**SMALL_GAME, adversary={"weight_warmup_ratio": 0}))
    assert run.models.reference is not None
    reference = {name: value.clone() for name, value in run.models.reference.state_dict().items()}
    flags = {name: weight.requires_grad for name, weight in run.models.policy.named_parameters()}
    trained(run, 2)
    assert all(weight.grad is None for weight in run.models.policy.parameters())
    assert all(weight.grad is None for critic in run.regularizers[0].modules().values() for weight in critic.parameters())
    assert all(torch.equal(value, reference[name]) for name, value in run.models.reference.state_dict().items())
    assert flags == {name: weight.requires_grad for name, weight in run.models.policy.named_parameters()}
    assert run.models.policy.training


def test_a_frozen_discriminator_never_moves(tiny_run: MakeRun) -> None:
    sections = {**SMALL_GAME, "discriminator": {"use": "mlp", "hidden_dim": 8, "frozen": True}}
    run = made(tiny_run(**sections, adversary={"weight_warmup_ratio": 0}))
    before = {name: value.clone() for name, value in run.regularizers[0].tensors().items() if name != "means"}
    after = trained(run, 3)
    assert all(torch.equal(value, after[f"adversary.{name}"]) for name, value in before.items())


@pytest.mark.parametrize("sections", [{}, SMALL_GAME], ids=["plain", "ganpo"])
def test_a_value_that_is_not_finite_stops_the_run_before_the_update(sections: dict[str, Any], tiny_run: MakeRun) -> None:
    run = made(tiny_run(**sections, model={**tiny_run()["model"], "disable_dropout": False}))
    with torch.no_grad():
        run.models.policy.lm_head.weight[5, 3] = float("nan")  # type: ignore[union-attr, index]
    before = {name: weight.detach().clone() for name, weight in run.models.trainable().items()}
    critics = {name: value.clone() for r in run.regularizers for name, value in r.tensors().items()}
    with pytest.raises(TrainingError, match=r"step 1: .* is not finite; the policy was not updated.*pairs.jsonl row \d+"):
        train_step(run, run.window(0), 0, MetricSums(run.models.device))
    for name, weight in run.models.trainable().items():
        torch.testing.assert_close(weight.detach(), before[name], rtol=0, atol=0, equal_nan=True)
    after = {name: value for r in run.regularizers for name, value in r.tensors().items()}
    assert all(torch.equal(critics[name], after[name]) for name in critics)


def test_policy_and_reference_that_differ_at_the_start_are_refused(tiny_run: MakeRun) -> None:
    run = made(tiny_run())
    with torch.no_grad():
        run.models.policy.lm_head.weight.mul_(1.5)  # type: ignore[union-attr, operator]
    with pytest.raises(TrainingError, match=r"differ by .* nats .* model\.reference"):
        train_step(run, run.window(0), 0, MetricSums(run.models.device))


def test_one_forward_of_three_groups_per_critic_and_micro_batch(tiny_run: MakeRun) -> None:
    """In preset `ganpo` a critic sees its three groups, 12 rows for 4 pairs, once; the first step settles the means."""
    accumulated = training(gradient_accumulation_steps=2)
    run = made(tiny_run(**SMALL_GAME, adversary={"preset": "ganpo"}, training=accumulated))
    trained(run, 1)
    rows: list[int] = []
    for critic in run.regularizers[0].modules().values():
        critic.register_forward_hook(lambda _module, _inputs, output: rows.append(len(output.scores)))
    train_step(run, run.window(1), 1, MetricSums(run.models.device))
    assert rows == [12, 12, 12, 12]


def test_the_weight_grows_over_its_warm_up(tiny_run: MakeRun) -> None:
    """10 % of 40 steps: 0, 1/4, 1/2, 3/4 of the weight, then all of it."""
    run = made(tiny_run(**SMALL_GAME, adversary={"weight": 2, "weight_warmup_ratio": 0.1}, training=training(max_steps=40)))
    weights = []
    for step in range(6):
        run.regularizers[0].begin_step(step, 1, step)
        weights.append(run.regularizers[0].weight)
    assert weights == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
