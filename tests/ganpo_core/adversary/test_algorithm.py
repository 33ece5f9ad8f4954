"""Presets `paper` and `paper_alg1` over ten steps against Algorithm 1 of arXiv 2601.22083, written out here."""

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
from ganpo_core.step import train_step

MakeRun = Callable[..., dict[str, Any]]
STEPS, LEARNING_RATE, CRITIC_RATE = 10, 1e-2, 5e-3


def zeta(value: Tensor) -> Tensor:
    return torch.log1p(torch.exp(value))


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("preset", ["paper", "paper_alg1"])
def test_ten_steps_are_algorithm_1(preset: str, accumulation: int, tiny_run: MakeRun) -> None:
    run_file = tiny_run(
        model={"path": tiny_run()["model"]["path"], "dtype": "float64"},
        latents={"use": "hidden_state"},
        divergence={"use": "ragan"},
        discriminator={"use": "mlp", "hidden_dim": 8},
        adversary={"preset": preset, "lr_scheduler_type": "constant"},
        training={
            "learning_rate": LEARNING_RATE, "max_steps": STEPS, "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": accumulation, "lr_scheduler_type": "constant", "max_grad_norm": None,
        },
    )
    run = assemble(load_run(run_file), Accelerator(cpu=True))
    (game,) = run.regularizers
    assert isinstance(game, CriticGame) and run.models.reference is not None
    policy, reference = copy.deepcopy(run.models.policy), run.models.reference
    critics = [copy.deepcopy(critic.module) for critic in game.critics]
    optimizers = [torch.optim.AdamW(critic.parameters(), lr=CRITIC_RATE, weight_decay=0.0) for critic in critics]
    policy_optimizer = torch.optim.AdamW(policy.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    running = torch.zeros(2, 3, dtype=torch.float64)
    for step in range(STEPS):
        window = run.window(step)

        def rows(model: torch.nn.Module, window: Any = window) -> tuple[list[list[Tensor]], list[Any]]:
            """Each response's valid states, chosen then rejected, and the raw outputs."""
            sides: list[list[Tensor]] = [[], []]
            outputs = []
            for batch in window:
                mask = batch.tokens.valid
                output = model(batch.input_ids, attention_mask=mask.long(), output_hidden_states=True)
                outputs.append(output)
                for index, states in enumerate(output.hidden_states[-1]):
                    sides[index >= batch.num_pairs].append(states[mask[index]])
            return sides, outputs

        def score(critic: torch.nn.Module, states: list[Tensor]) -> Tensor:
            one = [critic(row[None], torch.ones(1, len(row), dtype=torch.bool)) for row in states]
            return torch.cat(one)

        mine, my_outputs = rows(policy)
        with torch.no_grad():
            theirs, their_outputs = rows(reference)
        anchors, critic_losses = [], []
        for side, critic in enumerate(critics):
            real, other = score(critic, theirs[side]), score(critic, theirs[1 - side])
            fake = score(critic, [states.detach() for states in mine[side]])
            batch_means = torch.stack([real.mean(), fake.mean(), other.mean()]).detach()
            running[side] = 0.9 * running[side] + 0.1 * batch_means
            m_real, m_fake, m_other = running[side]
            if preset == "paper_alg1":
                m_fake, m_other = batch_means[1], batch_means[2]
            own = zeta(-(real - m_fake)).mean() + zeta(fake - m_real).mean()
            cross = zeta(-(fake - m_other)).mean() + zeta(other - m_fake).mean()
            optimizers[side].zero_grad()
            (own + cross).backward()
            optimizers[side].step()
            anchors.append(m_real.clone())
            critic_losses.append((own + cross).item())
        penalty = sum(
            -zeta(score(critic, mine[side]) - anchors[side]).mean() for side, critic in enumerate(critics)
        )
        ratios: list[list[Tensor]] = [[], []]
        for batch, output, anchor in zip(window, my_outputs, their_outputs, strict=True):
            sums = []
            for logits in (output.logits, anchor.logits):
                tokens = logits.log_softmax(-1)[:, :-1].gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
                sums.append((tokens * batch.tokens.response[:, 1:]).sum(-1))
            ratio = sums[0] - sums[1]
            ratios[0].append(ratio[: batch.num_pairs])
            ratios[1].append(ratio[batch.num_pairs :])
        margin = 0.1 * (torch.cat(ratios[0]) - torch.cat(ratios[1]))
        total = zeta(-margin).mean() + penalty
        policy_optimizer.zero_grad()
        total.backward()
        policy_optimizer.step()

        metrics = MetricSums(run.models.device)
        train_step(run, window, step, metrics)
        found = metrics.means(run.sum_over_processes)
        assert found["loss"] == pytest.approx(total.item(), abs=1e-6)
        for side, name in enumerate(("chosen", "rejected")):
            assert found[f"adversary/{name}/critic_loss"] == pytest.approx(critic_losses[side], abs=1e-6)
    torch.testing.assert_close(game.baselines.means.values_KG, running, rtol=0, atol=1e-6)
    for ours, theirs_ in zip(game.critics, critics, strict=True):
        for one, two in zip(ours.module.parameters(), theirs_.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    for one, two in zip(run.models.policy.parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
