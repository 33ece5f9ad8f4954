"""What each architecture is allowed, decided on the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from ganpo_core.data import TokenPair
from ganpo_core.errors import ConfigError
from ganpo_core.forward import PassPlan, packing_check, plan_passes
from ganpo_core.forward.attention import FUSED, use_segment_attention
from ganpo_core.models import Models

MakeModel = Callable[..., nn.Module]

SMALL: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip


def made(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**options))
    return model


def planned(
    model: nn.Module, pairs: list[TokenPair], packing: Any = "auto", attention: str = "auto", obstacles: Any = ()
) -> tuple[PassPlan, list[str]]:
    models = Models(None, model, None, torch.float32, torch.device("cpu"))
    return plan_passes(models, packing, attention, pairs, 0, obstacles)


def test_supported_architectures_share_and_are_taken_apart(
    architecture: str, make_model: MakeModel, ragged_pairs: list[TokenPair]
) -> None:
    model = make_model(architecture).train()
    plan, notes = planned(model, ragged_pairs)
    assert (plan.packing, notes) == ("shared", []) and plan.head is not None
    assert model.training


@pytest.mark.parametrize("packing", ["padded", "packed", "shared"])
def test_the_comparison_is_at_rounding_for_every_layout(
    packing: Any, architecture: str, make_model: MakeModel, ragged_pairs: list[TokenPair]
) -> None:
    model = make_model(architecture)
    use_segment_attention(model, FUSED)
    gap = packing_check(model, packing, None, ragged_pairs, 0)
    assert gap.logps < 1e-5 and gap.gradient < 1e-5


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("MambaConfig", {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}, "registry|layers"),
        ("GPT2Config", {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "reorder_and_upcast_attn": True},
         "a way of its own"),
        ("Llama4TextConfig", {**SMALL, "num_local_experts": 2, "intermediate_size_mlp": 32, "attention_chunk_size": 8},
         "layers of chunked_attention"),
        ("BloomConfig", {"vocab_size": 40, "hidden_size": 16, "n_layer": 2, "n_head": 2}, "registry"),
        ("GptOssConfig", {**SMALL, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 8}, "adds a bias"),
        ("Qwen3NextConfig", {**SMALL, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
                             "linear_value_head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1,
                             "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
                             "layer_types": ["linear_attention", "full_attention"]}, "registry|layers of linear"),
    ],
)  # fmt: skip
def test_others_are_padded_and_the_line_says_why(
    name: str, options: dict[str, Any], reason: str, ragged_pairs: list[TokenPair]
) -> None:
    model = made(name, **options)
    former = model.config._attn_implementation  # type: ignore[union-attr]
    plan, notes = planned(model, ragged_pairs)
    lines = [line for line in notes if line.startswith("training.packing: padded rows, since ")]
    assert plan.packing == "padded" and len(lines) == 1
    assert any(part in lines[0] for part in reason.split("|")), lines
    assert model.config._attn_implementation == former  # type: ignore[union-attr]


def test_a_head_that_scales_its_logits_is_left_to_the_model(ragged_pairs: list[TokenPair]) -> None:
    plan, notes = planned(made("GraniteConfig", **SMALL, logits_scaling=3.0), ragged_pairs)
    assert plan == PassPlan("shared", None)
    assert len(notes) == 1 and "GraniteForCausalLM does more than a linear layer with them" in notes[0]


def test_adapters_on_the_head_leave_it_to_the_model(make_model: MakeModel, ragged_pairs: list[TokenPair]) -> None:
    import peft

    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    plan, notes = planned(peft.get_peft_model(make_model("llama"), settings), ragged_pairs)
    assert plan == PassPlan("shared", None)
    assert len(notes) == 1 and "not a plain linear layer" in notes[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attention": "flash_attention_2"}, "flash_attention_2 takes padded rows here"),
        ({"attention": "flex_attention"}, "no backward pass on this device"),
        ({"obstacles": ["the moon is full"]}, "the moon is full"),
    ],
)
def test_a_run_may_speak_against_packing(
    options: dict[str, Any], reason: str, make_model: MakeModel, ragged_pairs: list[TokenPair]
) -> None:
    plan, notes = planned(make_model("llama"), ragged_pairs, **options)
    assert plan.packing == "padded" and len(notes) == 1 and reason in notes[0]
    with pytest.raises(ConfigError, match=r"training\.packing: packed is not possible here"):
        planned(make_model("llama"), ragged_pairs, "packed", **options)


def test_a_model_that_reads_a_packed_row_wrongly_is_found_out(
    make_model: MakeModel, ragged_pairs: list[TokenPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here every layer adds a moving average over the row, as recurrent layers would: no segment stops it."""
    model = make_model("llama")
    for layer in model.model.layers:  # type: ignore[union-attr]
        layer.mlp.register_forward_hook(lambda _module, _inputs, output: output + 0.1 * output.cumsum(1))
    plan, notes = planned(model, ragged_pairs)
    assert plan.packing == "padded" and "computes something else in a packed row" in notes[0]
