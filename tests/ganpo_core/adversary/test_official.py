"""Preset `official` over 40 micro-batches against a transcription of the released trainer's rules, written out here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from ganpo_core.adversary import CriticGame
from ganpo_core.assemble import assemble
from ganpo_core.config import load_run
from ganpo_core.metrics import MetricSums
from ganpo_core.run import Run
from ganpo_core.step import train_step

MakeRun = Callable[..., dict[str, Any]]
ACCUMULATION, STEPS, LEARNING_RATE = 4, 10, 1e-2
CRITICS = [
    {"use": "linear", "spectral_norm": True},
    {"use": "mlp", "hidden_dim": 8},
    {"use": "transformer", "hidden_dim": 8, "num_heads": 2, "num_layers": 2, "dropout": 0.0, "max_positions": 32},
]


def made(tiny_run: MakeRun, critic: dict[str, Any]) -> Run:
    run_file = tiny_run(
        model={"path": tiny_run()["model"]["path"], "dtype": "float64"},
        latents={"use": "hidden_state"},
        divergence={"use": "ragan"},
        discriminator=critic,
        adversary={"preset": "official", "learning_rate_ratio": 0.5},
        training={
            "learning_rate": LEARNING_RATE, "max_steps": STEPS, "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": ACCUMULATION, "lr_scheduler_type": "constant", "max_grad_norm": None,
        },
    )
    return assemble(load_run(run_file), Accelerator(cpu=True))


def spectral_norms(module: nn.Module, iterate: bool) -> None:
    for name, part in module.named_modules():
        if name.split(".")[-1].isdigit() and "parametrizations" in name:
            part.train(iterate)


def transcription(run: Run) -> dict[str, Any]:
    """The released loop: critics every micro-batch, running means every micro-batch, the boundary test, the policy."""
    policy, reference = copy.deepcopy(run.models.policy), run.models.reference
    assert reference is not None
    (game,) = run.regularizers
    assert isinstance(game, CriticGame)
    critics = [copy.deepcopy(critic.module) for critic in game.critics]
    critic_optimizers = [
        torch.optim.AdamW(critic.parameters(), lr=LEARNING_RATE / 2, weight_decay=0.01) for critic in critics
    ]
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS) for optimizer in critic_optimizers
    ]
    policy_optimizer = torch.optim.AdamW(policy.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    means: dict[tuple[int, str], Tensor] = {}
    record: dict[str, Any] = {"loss": [], "critic_loss": [], "boundaries": []}
    for global_step in range(STEPS):
        step_loss, step_critic = 0.0, [0.0, 0.0]
        for micro, batch in enumerate(run.window(global_step)):
            count = batch.num_pairs
            mine = policy(batch.input_ids, attention_mask=batch.tokens.valid.long(), output_hidden_states=True)
            with torch.no_grad():
                theirs = reference(batch.input_ids, attention_mask=batch.tokens.valid.long(), output_hidden_states=True)
            h, r = mine.hidden_states[-1], theirs.hidden_states[-1]
            h_sides, r_sides = (h[:count], h[count:]), (r[:count], r[count:])
            everything = torch.ones_like(batch.tokens.valid[:count])
            gradients_are_exchanged = micro == ACCUMULATION - 1
            for side, critic in enumerate(critics):
                critic.train()
                spectral_norms(critic, True)
                s_real = critic(r_sides[side], everything)
                s_fake = critic(h_sides[side].detach(), everything)
                s_other = critic(r_sides[1 - side], everything)
                for name, scores in (("real", s_real), ("fake", s_fake), ("other", s_other)):
                    new = scores.detach().mean()
                    old = means.get((side, name))
                    means[side, name] = new if old is None else 0.9 * old + 0.1 * new
                ones, zeros = torch.ones_like(s_real), torch.zeros_like(s_real)
                bce = F.binary_cross_entropy_with_logits
                loss = 0.25 * (
                    bce(s_real - means[side, "fake"], ones)
                    + bce(s_fake - means[side, "real"], zeros)
                    + bce(s_fake - means[side, "other"], ones)
                    + bce(s_other - means[side, "fake"], zeros)
                )
                (loss / ACCUMULATION).backward()
                step_critic[side] += loss.item() / ACCUMULATION
                if (global_step + 1) % ACCUMULATION == 0 and gradients_are_exchanged:
                    critic_optimizers[side].step()
                    schedules[side].step()
                    critic_optimizers[side].zero_grad()
                    record["boundaries"].append((global_step, micro, side))
            answer = torch.zeros((), dtype=torch.float64)
            for side, critic in enumerate(critics):
                critic.eval()
                spectral_norms(critic, False)
                s_fake = critic(h_sides[side], everything)
                answer = answer + 0.5 * F.binary_cross_entropy_with_logits(
                    s_fake - means[side, "real"], torch.ones_like(s_fake)
                )
            sums = []
            for logits in (mine.logits, theirs.logits):
                tokens = logits.log_softmax(-1)[:, :-1].gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
                sums.append((tokens * batch.tokens.response[:, 1:]).sum(-1))
            ratio = sums[0] - sums[1]
            total = F.softplus(-0.1 * (ratio[:count] - ratio[count:])).mean() + answer
            gradients = torch.autograd.grad(total / ACCUMULATION, list(policy.parameters()))
            for weight, gradient in zip(policy.parameters(), gradients, strict=True):
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
            step_loss += total.item() / ACCUMULATION
        policy_optimizer.step()
        policy_optimizer.zero_grad()
        record["loss"].append(step_loss)
        record["critic_loss"].append(step_critic)
    record.update(policy=policy, critics=critics, means=means)
    return record


@pytest.mark.parametrize("critic", CRITICS, ids=lambda critic: critic["use"])
def test_forty_micro_batches_are_the_released_trainers(critic: dict[str, Any], tiny_run: MakeRun) -> None:
    run = made(tiny_run, critic)
    expected = transcription(run)
    assert expected["boundaries"] == [(3, 3, 0), (3, 3, 1), (7, 3, 0), (7, 3, 1)]
    (game,) = run.regularizers
    assert isinstance(game, CriticGame)
    for step in range(STEPS):
        metrics = MetricSums(run.models.device)
        train_step(run, run.window(step), step, metrics)
        found = metrics.means(run.sum_over_processes)
        assert found["loss"] == pytest.approx(expected["loss"][step], abs=1e-6)
        for side, name in enumerate(("chosen", "rejected")):
            assert found[f"adversary/{name}/critic_loss"] == pytest.approx(expected["critic_loss"][step][side], abs=1e-6)
    for side in range(2):
        for group, name in enumerate(("real", "fake", "other")):
            torch.testing.assert_close(
                game.baselines.means.values_KG[side, group], expected["means"][side, name], rtol=0, atol=1e-6
            )
        ours, theirs = game.critics[side].module.state_dict(), expected["critics"][side].state_dict()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6, msg=name)
    for ours_, theirs_ in zip(run.models.policy.parameters(), expected["policy"].parameters(), strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=0, atol=1e-6)
