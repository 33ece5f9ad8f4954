"""C4: does a trained critic's score follow the oracle's reward where a reward model's does not?"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ganpo_core import Discriminator, GanpoError, component
from ganpo_core.statistics import pearson, spearman
from ganpo_lab.measure import World
from ganpo_lab.reference import ID
from ganpo_lab.sampling import padded
from ganpo_lab.world import EOS, PAD, Request, judge

HOT = (1.5, 2.0)
REPLICATES = 2
STEPS, PAIRS, LEARNING_RATE = 300, 32, 5e-4
RESAMPLES = 500

Numbers = NDArray[np.float64]


class RewardModel(nn.Module):
    """The reference's trunk with a scalar head at the end of the answer, trained on the same pairs."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(width, 1)

    def forward(self, ids: Tensor, valid: Tensor) -> Tensor:
        """[N]."""
        states = self.trunk(input_ids=ids, attention_mask=valid.long()).last_hidden_state
        last = valid.sum(1) - 1
        scores: Tensor = self.head(states[torch.arange(len(ids)), last])[:, 0]
        return scores


def make_reward_model(reference: Any, pairs: Path, seed: int, steps: int, kept: Path) -> RewardModel:
    """Trained on the runs' own preference pairs unless `kept` is newer than they are; it becomes the reference's owner."""
    from safetensors.torch import load_file, save_file

    if kept.is_file() and kept.stat().st_mtime > pairs.stat().st_mtime:
        model = RewardModel(reference.get_decoder(), reference.config.hidden_size)
        model.load_state_dict(load_file(kept))
        return model.eval()
    model = train_reward_model(reference, pairs, seed, steps)
    save_file(model.state_dict(), kept)
    return model


def train_reward_model(reference: Any, pairs: Path, seed: int, steps: int = STEPS) -> RewardModel:
    """On preference pairs (Bradley-Terry)."""
    torch.manual_seed(seed)
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    model = RewardModel(reference.get_decoder(), reference.config.hidden_size).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    draw = random.Random(seed)
    for _ in range(steps):
        batch = draw.sample(rows, min(PAIRS, len(rows)))
        texts = [row["prompt"] + row[side] for side in ("chosen", "rejected") for row in batch]
        chosen, rejected = model(*_right_padded([f"{text} {EOS}".split() for text in texts])).chunk(2)
        loss: Any = nn.functional.softplus(rejected - chosen).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def load_critic(folder: Path, latent_dim: int) -> nn.Module:
    """The chosen responses' critic of a finished run. Raises GanpoError where the run has none."""
    card = folder / "adversary.json"
    if not card.is_file() or not (folder / "chosen.safetensors").is_file():
        raise GanpoError(f"lab claims: {folder} holds no critic; `signals: true` is for rows with a discriminator")
    from safetensors.torch import load_file

    options = dict(json.loads(card.read_text(encoding="utf-8"))["discriminator"])
    name = options.pop("use")
    critic = cast(Discriminator, component("discriminator", name, **options)).build(latent_dim)
    weights = load_file(folder / "chosen.safetensors")
    critic.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    return critic.eval()


@torch.no_grad()
def compare_signals(world: World, policy: Any, critic: nn.Module, reward_model: RewardModel) -> list[dict[str, Any]]:
    """Correlations with the oracle over every answer of a policy at hot temperatures, one row a signal."""
    rows = []
    for temperature in HOT:
        asked: list[Request] = []
        answers: list[list[str]] = []
        for replicate in range(REPLICATES):
            asked += world.requests
            answers += world.answers(policy, temperature, replicate)
        rewards = np.array([judge(request, answer).reward for request, answer in zip(asked, answers, strict=True)])
        ids, valid, _ = padded(asked, answers)
        states = policy.get_decoder()(input_ids=ids, attention_mask=valid.long()).last_hidden_state
        scores = {"critic": critic(states, valid), "reward model": reward_model(ids, valid)}
        for name, values in scores.items():
            rows.append({"at": temperature, "signal": name, **correlations(values.double().numpy(), rewards)})
    return rows


def correlations(scores: Numbers, rewards: Numbers) -> dict[str, Any]:
    """Pearson's and Spearman's: value, low and high of the 95 % interval over answers; None where a side is constant."""
    found: dict[str, Any] = {"num_answers": len(scores)}
    varies = bool(np.ptp(scores) > 0 and np.ptp(rewards) > 0)
    for name, correlate in (("pearson", pearson), ("spearman", spearman)):
        interval = correlate(scores, rewards, RESAMPLES).interval if varies else None
        found[name] = interval and [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]
    return found


def _right_padded(rows: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[ID[token] for token in row] + [ID[PAD]] * (width - len(row)) for row in rows])
    return ids, torch.arange(width) < torch.tensor([[len(row)] for row in rows])
