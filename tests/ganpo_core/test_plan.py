"""What a run needs, stated from configurations: counts by hand, and by the real shapes of two published models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ganpo_core import Discriminator, component
from ganpo_core.adversary import LatentBatch
from ganpo_core.adversary.regularizer import Totals
from ganpo_core.cli.main import main
from ganpo_core.config import ModelConfig, load_run
from ganpo_core.config.sections import LoraConfig
from ganpo_core.metrics import MetricSums
from ganpo_core.plan import Lengths, critic_flops_per_token, critic_overhead, plan_run
from ganpo_core.plan.critics import Passes
from ganpo_core.plan.shape import model_shape
from ganpo_core.types import Latents

PAPER = {
    "latents": {"use": "hidden_state"},
    "discriminator": {"use": "transformer", "hidden_dim": 512, "num_layers": 2},
    "divergence": {"use": "ragan"},
    "adversary": {"weight": 1.0},
}


def save_config(folder: Path, name: str) -> Path:
    """The configuration of a published model, without weights."""
    from transformers import Gemma2Config, LlamaConfig

    if name == "gemma2-2b":
        Gemma2Config(
            vocab_size=256_000,
            hidden_size=2304,
            intermediate_size=9216,
            num_hidden_layers=26,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=256,
        ).save_pretrained(folder)
    else:
        LlamaConfig(
            vocab_size=128_256,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=8192,
        ).save_pretrained(folder)
    return folder


# -- models --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "head"), [("gemma2-2b", 2_614_341_888, 589_824_000), ("llama3-8b", 8_030_261_248, 525_336_576)]
)
def test_published_models_are_counted_exactly_without_their_weights(
    tmp_path: Path, name: str, parameters: int, head: int
) -> None:
    shape = model_shape(ModelConfig(str(save_config(tmp_path, name)), dtype="bfloat16"), 512)
    assert (shape.parameters, shape.head) == (parameters, head)
    # Tied in Gemma, apart in Llama; norms are no matrices.
    embeddings = head if name == "llama3-8b" else 0
    assert shape.body == pytest.approx(parameters - head - embeddings, rel=1e-3)
    assert shape.weight_bytes == 4 * parameters
    assert shape.cast_bytes == pytest.approx(2 * shape.body, rel=1e-3)


def test_with_adapters_only_they_are_trained(tmp_path: Path) -> None:
    """Rank 16 on the seven matrices of each of 32 layers: 16 * (in + out) each.

    q, o: 8192 * 2; k, v: 5120 * 2; gate, up, down: 18432 * 3: 81920 * 16 = 1,310,720 a layer.
    """
    config = ModelConfig(str(save_config(tmp_path, "llama3-8b")), dtype="bfloat16", lora=LoraConfig())
    shape = model_shape(config, 64)
    assert shape.trainable == 32 * 1_310_720
    assert shape.trainable_bytes == 4 * shape.trainable
    assert shape.weight_bytes == 2 * 8_030_261_248 + 4 * shape.trainable
    assert not shape.head_trainable


# -- a tiny run, by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("packing", "forward"), [("padded", 149_632), ("auto", 107_648)])
def test_flops_of_a_tiny_run_are_those_counted_by_hand(
    packing: str, forward: int, tiny_run: Callable[..., dict[str, Any]]
) -> None:
    """Width 16, two layers of 4 * 16^2 + 3 * 16 * 32 = 2560 parameters, head 28 * 16 = 448; prompt 4, responses 3.

    Padded: 14 positions and 7^2 = 49 attended pairs; forward 2 * 5120 * 14 + 4 * 16 * 2 * 49 = 149,632. Shared: 10 positions
    and (4^2 + 3^2 + 3^2) / 2 + 4 * 6 = 41 pairs; 2 * 5120 * 10 + 4 * 16 * 2 * 41 = 107,648. Backward twice that; head
    2 * 448 * 6 = 5376 forward, twice that backward, once more recomputed; the reference forward only.
    """
    training = {**tiny_run()["training"], "packing": packing}
    plan = plan_run(load_run(tiny_run(training=training)), Lengths.assumed(4, 3))
    assert plan.work.parts == {
        "policy forward": forward,
        "policy backward": 2 * forward,
        "policy head": 16_128,
        "recomputed head": 5376,
        "reference forward": forward,
        "reference head": 5376,
    }
    assert plan.work.overhead == plan.work.overhead_of_critics == 1
    assert plan.work.useful == plan.work.total - 5376


def test_memory_of_a_tiny_run_is_that_counted_by_hand(tiny_run: Callable[..., dict[str, Any]]) -> None:
    """5120 + 2 * 448 + 5 norms of 16 = 6096 float32 weights; their gradients, two moments and a reference."""
    plan = plan_run(load_run(tiny_run()), Lengths.assumed(4, 3))
    assert plan.memory.resident == {
        "policy weights": 24_384,
        "gradients": 24_384,
        "optimizer state": 48_768,
        "reference": 24_384,
    }
    alone = plan_run(load_run(tiny_run(objective={"use": "simpo"})), Lengths.assumed(4, 3))
    assert alone.memory.resident["reference"] == 0
    assert "reference forward" not in alone.work.parts


def test_fsdp2_divides_what_is_resident_and_ddp_adds_buckets(tiny_run: Callable[..., dict[str, Any]]) -> None:
    training = {"max_steps": 1, "parallelism": "fsdp2"}
    shared = plan_run(load_run(tiny_run(training=training)), Lengths.assumed(4, 3), processes=4)
    assert shared.memory.resident["optimizer state"] == 48_768 / 4
    copied = plan_run(load_run(tiny_run()), Lengths.assumed(4, 3), processes=4)
    assert copied.memory.resident["gradient buckets of ddp"] == 24_384
    assert copied.pairs_per_step == 16


def test_checkpointing_trades_activations_for_another_forward_pass(tiny_run: Callable[..., dict[str, Any]]) -> None:
    plain = plan_run(load_run(tiny_run()), Lengths.assumed(30, 20))
    training = {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_checkpointing": True}
    saving = plan_run(load_run(tiny_run(training=training)), Lengths.assumed(30, 20))
    assert saving.memory.passing["activations"] < plain.memory.passing["activations"]
    assert saving.work.parts["recomputed activations"] == saving.work.parts["policy forward"]
    assert saving.work.useful == plain.work.useful


def test_activations_are_what_autograd_keeps(tiny_model: Path) -> None:
    """A linear layer keeps its input: with every matrix of the two layers reading 16 or 32 numbers, at least those."""
    shape = model_shape(ModelConfig(str(tiny_model)), 32)
    inputs = 2 * 4 * (16 + 16 + 16 + 32)  # float32: what q, k, v read; what o reads; what gate and up read; what down reads
    assert inputs < shape.saved_per_token < 8 * inputs


# -- lengths -------------------------------------------------------------------------------------------------------------


def test_layouts_count_positions_and_attention() -> None:
    """Pairs (4, 3, 1) and (2, 6, 2). Longest rows 7 and 8: padded together 2 * 2 * 8 = 32 positions, 16 a pair."""
    lengths = Lengths(np.array([[4, 3, 1], [2, 6, 2]]), "a test")
    assert [lengths.tokens(layout, 2) for layout in ("padded", "packed", "shared")] == [16, 12, 9]
    assert lengths.tokens("padded", 1) == 15
    assert lengths.largest("shared", 1) == 10
    assert lengths.attended("packed", 1) == (49 + 25 + 64 + 16) / 4
    # Of the first pair 8 + 4.5 + 0.5 in the segments and 4 * 4 from responses to prompt; of the second 22 and 16.
    assert lengths.attended("shared", 1) == (13 + 16 + 22 + 16) / 2


def test_lengths_come_from_the_data_of_the_run(tiny_run: Callable[..., dict[str, Any]]) -> None:
    plan = plan_run(load_run(tiny_run()))
    assert plan.lengths.origin == "48 pairs of the data"
    assert plan.lengths.table.shape == (48, 3)


# -- critics -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "layers", "length"), [(2304, 2, 512), (2304, 2, 1024), (4096, 4, 2048)])
def test_the_papers_critic_costs_what_its_closed_form_says(width: int, layers: int, length: int) -> None:
    """Forward, per token: 2 H d + N (24 d^2 + 4 L d), d = 512; the pooled head is all that it leaves out."""
    found = critic_flops_per_token(component_of("transformer", num_layers=layers), width, length)
    assert found.forward == pytest.approx(2 * width * 512 + layers * (24 * 512**2 + 4 * length * 512), rel=1e-3)
    # Backward twice the forward pass, less the gradient of the first projection's input, which training does not need.
    assert found.to_weights == pytest.approx(2 * found.forward - 2 * width * 512, rel=1e-3)


def test_the_overhead_of_the_papers_critics_on_gemma() -> None:
    """The arithmetic counts 10 passes a sequence token: 1.01 % of DPO at 1024 tokens. The policy's gradient runs through all six
    rows of the shared forward pass here, not two: 12 passes, attention's part of them twice a forward pass's."""
    found = critic_flops_per_token(component_of("transformer"), 2304, 1024)
    assert 10 * found.forward / (8 * 2.61e9) == pytest.approx(0.0092, rel=0.01)
    assert critic_overhead(found, 2.61e9) == pytest.approx(0.0112, rel=0.02)
    assert critic_overhead(found, 2.61e9, checkpointing=True) == pytest.approx(0.8 * critic_overhead(found, 2.61e9))


def test_a_critic_that_branches_on_values_is_counted_too() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = nn.Linear(8, 1)

        def forward(self, states: Tensor, mask: Tensor) -> Tensor:
            return self.score(states[:, 0])[:, 0] if bool(mask.all()) else states.new_zeros(len(states))

    assert critic_flops_per_token(Branching(), 8, 4).forward == 2 * 8 / 4


class Counting(TorchDispatchMode):
    """FlopCounterMode follows modules with hooks that do not allow `autograd.grad` down to a leaf; this counts alone."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=found)
        return found


def test_the_passes_are_those_that_the_game_makes(tiny_run: Callable[..., dict[str, Any]]) -> None:
    """FLOPs counted while a real game judges one pair with two rows of 16 tokens each, against the plan's."""
    from ganpo_core.adversary import build_regularizers

    critic = {"use": "transformer", "hidden_dim": 16, "num_heads": 2, "dropout": 0.0}
    config = load_run(tiny_run(**{**PAPER, "discriminator": critic}))
    (plan,) = config.adversaries
    device = torch.device("cpu")
    one = Latents(torch.zeros(2, 4, 8), torch.ones(2, 4, dtype=torch.bool))
    (game,), _ = build_regularizers(
        config, lambda plan, count: iter([one]), torch.float32, device, 3, lambda tensor: tensor, lambda rows: rows
    )
    mask = torch.ones(2, 16, dtype=torch.bool)
    policy, reference = torch.randn(2, 16, 8, requires_grad=True), torch.randn(2, 16, 8)
    batch = LatentBatch(Latents(policy, mask), Latents(reference, mask), torch.tensor([16.0, 16.0]))
    game.begin_step(0, 1, 0)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), Counting() as counter:
        penalty = game.penalty(batch, Totals(1, batch.num_selected, batch.num_rows), MetricSums(device))
        torch.autograd.grad(penalty, policy)
    assert plan.discriminator is not None
    per_token = critic_flops_per_token(plan.discriminator, 8, 16).per_pair_token(Passes.of(plan))
    assert counter.total == pytest.approx(per_token * 32, rel=0.02)


@pytest.mark.parametrize(("name", "layers"), [("gemma2-2b", 2), ("llama3-8b", 4)])
def test_the_papers_critics_add_less_than_two_percent(
    tiny_run: Callable[..., dict[str, Any]], tmp_path: Path, name: str, layers: int
) -> None:
    run = tiny_run(model={"path": str(save_config(tmp_path / name, name)), "dtype": "bfloat16"}, **PAPER)
    run["discriminator"] = {**PAPER["discriminator"], "num_layers": layers}
    dpo = plan_run(load_run(run), Lengths.assumed(178, 352)).work
    assert 1.003 < dpo.overhead_of_critics < 1.015
    assert dpo.overhead == dpo.overhead_of_critics
    simpo = plan_run(load_run({**run, "objective": {"use": "simpo"}}), Lengths.assumed(178, 352)).work
    assert 1.003 < simpo.overhead_of_critics < 1.015
    assert 1.2 < simpo.overhead < 1.35  # the reference's pass, which SimPO alone does not make


def test_a_schedule_that_looks_ahead_pays_for_it(tiny_run: Callable[..., dict[str, Any]]) -> None:
    training = {"max_steps": 1, "gradient_accumulation_steps": 2}
    run = load_run(tiny_run(**{**PAPER, "adversary": {"preset": "paper"}}, training=training))
    work = plan_run(run, Lengths.assumed(4, 3)).work
    assert work.parts["pass ahead of the policy's"] == 2 * work.parts["policy forward"]


def component_of(name: str, **options: object) -> Discriminator:
    found = component("discriminator", name, **options)
    assert isinstance(found, Discriminator)
    return found


# -- the command ---------------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_the_plan(
    tiny_run: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, written = tmp_path / "run.yaml", tmp_path / "plan.json"
    path.write_text(json.dumps(tiny_run(**PAPER)), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["ganpo", "plan", str(path), "--prompt", "4", "--response", "3", "--json", str(written)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    out = capsys.readouterr().out
    assert "6,096 parameters, 6,096 of them trained" in out
    assert "analytic overhead of the critics: " in out
    plan = json.loads(written.read_text(encoding="utf-8"))
    assert plan["memory"]["resident"]["policy weights"] == 24_384
    assert plan["flops"]["step"] == plan["flops"]["pair"] * 4
    assert set(plan["overhead"]) == {"base", "base_with_reference", "critics"}
