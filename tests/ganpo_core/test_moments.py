"""What is restored lies where it is read next: beside the weights and the latents, whatever the device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from ganpo_core.adversary import build_regularizers
from ganpo_core.config import load_run
from ganpo_core.moments import moments, set_moments
from ganpo_core.types import Latents

MakeRun = Callable[..., dict[str, Any]]
QUEUE: dict[str, Any] = {
    "latents": {"use": "hidden_state"},
    "divergence": {"use": "mmd", "queue": 6},
    "adversary": {"weight_mode": "grad_ratio", "grad_ratio": 0.1},
}


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"capturable": True}, {"foreach": True}], ids=str)
def test_moments_go_where_torch_itself_puts_them(options: dict[str, Any]) -> None:
    """A weight on `meta` stands for one on a GPU, and torch's load_state_dict for what is right; one number is a weight too."""
    weights = [torch.nn.Parameter(torch.zeros(shape, device="meta")) for shape in ((2, 3), ())]
    saved = [
        {"step": torch.tensor(7.0), "exp_avg": torch.ones(shape), "exp_avg_sq": torch.ones(shape)} for shape in ((2, 3), ())
    ]
    by_torch, ours = (torch.optim.AdamW(weights, lr=0.1, **options) for _ in range(2))
    whole = by_torch.state_dict() | {"state": dict(enumerate(copy.deepcopy(saved)))}
    by_torch.load_state_dict(whole)
    for weight, held in zip(weights, saved, strict=True):
        set_moments(ours, weight, held)
        assert devices(moments(ours, weight)) == devices(by_torch.state[weight])
        assert devices(moments(ours, weight))["exp_avg"] == "meta"


def devices(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """By name."""
    return {name: tensor.device.type for name, tensor in tensors.items()}


def test_scale_and_queues_are_restored_beside_the_latents(tiny_run: MakeRun) -> None:
    one = Latents(torch.zeros(2, 4, 8), torch.ones(2, 4, dtype=torch.bool))
    (distance,), _ = build_regularizers(
        load_run(tiny_run(**QUEUE)),
        lambda plan, count: iter([one]),
        torch.float32,
        torch.device("meta"),
        3,
        lambda tensor: tensor,
        lambda rows: rows,
    )
    saved = {"scale": torch.tensor(0.5), "queue.chosen": torch.ones(6, 8), "queue.rejected": torch.ones(6, 8)}
    distance.load(saved, distance.state())
    assert devices(distance.tensors()) == dict.fromkeys(saved, "meta")
    # What a step adds lies beside the latents; before its update both are looked at together.
    distance.note_force(torch.zeros((), device="meta"), torch.zeros((), device="meta"))
    assert set(devices(distance.settle()).values()) == {"meta"}
