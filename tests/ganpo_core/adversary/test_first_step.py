"""The adversary's first step against a straight-line transcription of the paper's equations, in float64.

Nothing here calls the divergence, the running means or the game: scores come from the critics' modules row by row,
and the losses are written out as in arXiv 2601.22083, equations 11 to 20.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from ganpo_core.adversary import CriticGame
from ganpo_core.assemble import assemble
from ganpo_core.config import load_run
from ganpo_core.metrics import MetricSums
from ganpo_core.run import Run
from ganpo_core.step import train_step

TOLERANCE = 1e-9


def written_out(run: Run, decay: float | None, saturating: bool, scale: float, mean: bool) -> dict[str, Any]:
    """The first step's losses and gradients. `decay` None: batch means; else means that started at 0."""
    (batch,) = run.window(0)
    policy = run.models.policy
    reference = run.models.reference
    assert reference is not None
    (game,) = run.regularizers
    assert isinstance(game, CriticGame)
    modules = [copy.deepcopy(critic.module).train(False) for critic in game.critics]
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.tokens.valid.long()}
    states = {
        name: model(**inputs, output_hidden_states=True) for name, model in (("T", policy), ("R", reference))
    }
    count = batch.num_pairs
    mask = {"w": batch.tokens.valid[:count], "l": batch.tokens.valid[count:]}
    hidden: dict[str, Tensor] = {}
    for model, output in states.items():
        hidden[model + "w"], hidden[model + "l"] = output.hidden_states[-1][:count], output.hidden_states[-1][count:]

    def log_of_one_plus_exp(value: Tensor) -> Tensor:
        return torch.log1p(torch.exp(value))

    found: dict[str, Any] = {"critic": [], "answer": [], "critic_gradients": []}
    total = torch.zeros((), dtype=torch.float64)
    for side, other, module in (("w", "l", modules[0]), ("l", "w", modules[1])):
        def score(group: str, side: str, module: torch.nn.Module = module) -> Tensor:
            return module(hidden[group + side], mask[side])

        real, fake, cross = score("R", side).detach(), score("T", side), score("R", other)
        own = score("R", side)
        fake_cut = module(hidden["T" + side].detach(), mask[side])
        part = 1.0 if decay is None else 1 - decay
        means = [part * values.detach().mean() for values in (real, fake, cross)]
        m_real, m_fake, m_cross = means
        first = log_of_one_plus_exp(-(own - m_fake)).mean() + log_of_one_plus_exp(fake_cut - m_real).mean()
        second = log_of_one_plus_exp(-(fake_cut - m_cross)).mean() + log_of_one_plus_exp(cross - m_fake).mean()
        critic_loss = scale * (first + second)
        found["critic"].append(critic_loss.item())
        found["critic_gradients"].append(torch.autograd.grad(critic_loss, list(module.parameters()), retain_graph=True))
        gap = fake - m_real
        answer = -log_of_one_plus_exp(gap).mean() if saturating else log_of_one_plus_exp(-gap).mean()
        found["answer"].append(answer.item())
        total = total + answer
    penalty = total / 2 if mean else total
    logps = states["T"].logits.log_softmax(-1), states["R"].logits.log_softmax(-1)
    sums = []
    for values in logps:
        tokens = values[:, :-1].gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
        sums.append((tokens * batch.tokens.response[:, 1:]).sum(-1))
    ratio = sums[0] - sums[1].detach()
    margin = 0.1 * (ratio[:count] - ratio[count:])
    loss = log_of_one_plus_exp(-margin).mean() + penalty
    found["loss"] = loss.item()
    found["penalty"] = penalty.item()
    found["policy_gradients"] = torch.autograd.grad(loss, list(policy.parameters()))
    return found


def first_step(run: Run) -> tuple[dict[str, float], dict[str, Tensor], list[dict[str, Tensor]]]:
    """One step of the framework: its metrics, and what its optimizers were given."""
    seen: list[dict[str, Tensor]] = []
    (game,) = run.regularizers
    assert isinstance(game, CriticGame) and game.critics.optimizer is not None

    def remember_critics(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        seen.extend({n: w.grad.clone() for n, w in c.named_parameters() if w.grad is not None} for c in game.critics)

    policy: dict[str, Tensor] = {}

    def remember_policy(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        policy.update({n: w.grad.clone() for n, w in run.models.trainable().items() if w.grad is not None})

    game.critics.optimizer.register_step_pre_hook(remember_critics)
    run.optimizer.register_step_pre_hook(remember_policy)
    metrics = MetricSums(run.models.device)
    train_step(run, run.window(0), 0, metrics)
    return metrics.means(run.sum_over_processes), policy, seen


CRITICS = [
    {"use": "linear"},
    {"use": "mlp", "hidden_dim": 8},
    {"use": "transformer", "hidden_dim": 8, "num_heads": 2, "num_layers": 2, "dropout": 0.0, "max_positions": 32},
]


@pytest.mark.parametrize("critic", CRITICS, ids=lambda critic: critic["use"])
@pytest.mark.parametrize("preset", ["batch_means", "paper"])
def test_first_step_is_the_equations(
    critic: dict[str, Any], preset: str, tiny_run: Callable[..., dict[str, Any]]
) -> None:
    batch_means = {
        "preset": "ganpo", "form": "non_saturating", "means": "none", "critic_scale": 0.25, "reduction": "mean",
        "weight_warmup_ratio": 0.0, "max_grad_norm": None,
    }
    adversary = batch_means if preset == "batch_means" else {"preset": "paper", "schedule": "simultaneous"}
    run_file = tiny_run(
        model={"path": tiny_run()["model"]["path"], "dtype": "float64"},
        latents={"use": "hidden_state"},
        divergence={"use": "ragan"},
        discriminator=critic,
        adversary=adversary,
        training={"learning_rate": 1e-3, "max_steps": 5, "per_device_train_batch_size": 6, "max_grad_norm": None,
                  "packing": "padded"},
    )
    run = assemble(load_run(run_file), Accelerator(cpu=True))
    if preset == "batch_means":
        expected = written_out(run, decay=None, saturating=False, scale=0.25, mean=True)
    else:
        expected = written_out(run, decay=0.9, saturating=True, scale=1.0, mean=False)
    metrics, policy, critics = first_step(run)
    for index, side in enumerate(("chosen", "rejected")):
        assert metrics[f"adversary/{side}/critic_loss"] == pytest.approx(expected["critic"][index], abs=TOLERANCE)
        assert metrics[f"adversary/{side}/policy_loss"] == pytest.approx(expected["answer"][index], abs=TOLERANCE)
        for ours, theirs in zip(critics[index].values(), expected["critic_gradients"][index], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
    assert metrics["adversary/penalty"] == pytest.approx(expected["penalty"], abs=TOLERANCE)
    assert metrics["loss"] == pytest.approx(expected["loss"], abs=TOLERANCE)
    for ours, theirs in zip(policy.values(), expected["policy_gradients"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


def test_alternating_answers_the_updated_critics(tiny_run: Callable[..., dict[str, Any]]) -> None:
    """Algorithm 1: the critics step first, and the policy's loss is measured against where they then stand."""
    run_file = tiny_run(
        model={"path": tiny_run()["model"]["path"], "dtype": "float64"},
        latents={"use": "hidden_state"},
        divergence={"use": "ragan"},
        discriminator={"use": "mlp", "hidden_dim": 8},
        adversary={"preset": "paper", "learning_rate": 0.05},
        training={"learning_rate": 1e-3, "max_steps": 5, "per_device_train_batch_size": 6},
    )
    run = assemble(load_run(run_file), Accelerator(cpu=True))
    (batch,) = run.window(0)
    (game,) = run.regularizers
    assert isinstance(game, CriticGame) and run.models.reference is not None
    before = [copy.deepcopy(critic) for critic in game.critics]
    states = []
    with torch.no_grad():
        for model in (run.models.policy, run.models.reference):
            states.append(model(batch.input_ids, batch.tokens.valid.long(), output_hidden_states=True).hidden_states[-1])
    metrics, _, _ = first_step(run)
    for side, rows in enumerate((slice(0, 6), slice(6, 12))):
        mask = batch.tokens.valid[rows]
        with torch.no_grad():
            anchor = 0.1 * before[side].module(states[1][rows], mask).mean()
            fresh = game.critics[side].module(states[0][rows], mask)
            stale = before[side].module(states[0][rows], mask)
        expected = -torch.log1p(torch.exp(fresh - anchor)).mean().item()
        unchanged = -torch.log1p(torch.exp(stale - anchor)).mean().item()
        name = f"adversary/{('chosen', 'rejected')[side]}/policy_loss"
        assert metrics[name] == pytest.approx(expected, abs=TOLERANCE)
        assert abs(expected - unchanged) > 1e-4
