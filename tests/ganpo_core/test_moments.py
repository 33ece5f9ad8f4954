"""What is restored lies where it is read next: beside the weights and the latents, whatever the device."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ganpo_core
import ganpo_core.assemble
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


class EightBit(torch.optim.Optimizer):
    """Keeps what bitsandbytes keeps: a step that Python counts, a code a weight, and what decodes the codes."""

    def __init__(self, weights: list[torch.nn.Parameter], lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Down the sign of a momentum of gradients' signs that is rounded to a byte."""
        for weight in self.param_groups[0]["params"]:
            if not self.state[weight]:
                self.state[weight] |= {"step": 0, "state1": torch.full_like(weight, 128, dtype=torch.uint8)}
                self.state[weight]["qmap1"] = torch.linspace(-1, 1, 256)
            state = self.state[weight]
            assert type(state["step"]) is int
            assert state["state1"].dtype == torch.uint8
            moved = 0.5 * state["qmap1"][state["state1"].long()] + 0.5 * weight.grad.sign()
            state["state1"] = ((moved + 1) * 127.5).round().to(torch.uint8)
            state["step"] += 1
            weight -= self.param_groups[0]["lr"] / state["step"] * moved


def test_an_optimizer_of_eight_bits_is_saved_and_resumed(
    tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        ganpo_core.assemble, "make_optimizer", lambda training, weights, device: EightBit(weights, training.learning_rate)
    )
    training = {"learning_rate": 1e-3, "max_steps": 4, "per_device_train_batch_size": 4, "save_steps": 2}
    run_file = tiny_run(training=training)
    folder = ganpo_core.train(run_file)
    last = folder / "checkpoints" / "step-00000004"
    whole = {path.name: path.read_bytes() for path in last.iterdir()}
    shutil.rmtree(last)
    shutil.rmtree(folder / "policy")
    ganpo_core.train(run_file, resume=True)
    assert "resuming after step 2" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in last.iterdir()} == whole
    held = load_file(last / "optimizer.safetensors")
    assert int(held["lm_head.weight.step"]) == 4
    assert held["lm_head.weight.state1"].dtype == torch.uint8
    assert held["lm_head.weight.qmap1"].shape == (256,)


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
