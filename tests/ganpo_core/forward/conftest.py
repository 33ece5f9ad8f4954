"""Tiny random models of several architectures, and ragged pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from ganpo_core.data import Packing, PairBatch, TokenPair, collate

SHAPE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0,
}
GPT2: dict[str, Any] = {
    "vocab_size": 40, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2,
}
CONFIGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SHAPE),
    "qwen2": ("Qwen2Config", SHAPE),
    "qwen2_window": ("Qwen2Config", {**SHAPE, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", SHAPE),
    "mistral": ("MistralConfig", {**SHAPE, "sliding_window": 5}),
    "gemma2": ("Gemma2Config", {**SHAPE, "sliding_window": 5, "attn_logit_softcapping": 3.0,
                                "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {**SHAPE, "sliding_window": 5, "query_pre_attn_scalar": 8,
                                    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "gpt2": ("GPT2Config", GPT2),
}  # fmt: skip


@pytest.fixture
def make_model() -> Callable[..., nn.Module]:
    """`make_model("llama")`: a random tiny model in float32, without dropout."""
    import transformers

    def make(name: str, seed: int = 0) -> nn.Module:
        kind, options = CONFIGS[name]
        torch.manual_seed(seed)
        model: nn.Module = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**options))
        return model.eval()

    return make


@pytest.fixture(params=CONFIGS)
def architecture(request: pytest.FixtureRequest) -> str:
    """The name of each architecture in turn."""
    name: str = request.param
    return name


@pytest.fixture
def ragged_pairs() -> list[TokenPair]:
    """Five pairs whose prompts and responses all differ in length, some longer than the sliding windows."""
    draw = torch.Generator().manual_seed(1)
    lengths = [(3, 5, 2), (7, 1, 9), (1, 4, 4), (11, 8, 13), (2, 12, 1)]

    def ids(count: int) -> list[int]:
        found: list[int] = torch.randint(3, 40, (count,), generator=draw).tolist()
        return found

    return [TokenPair(ids(p), ids(c), ids(r), "test", row) for row, (p, c, r) in enumerate(lengths)]


@pytest.fixture
def ragged_batches(ragged_pairs: list[TokenPair]) -> dict[Packing, PairBatch]:
    """The same pairs in every layout."""
    packings: list[Packing] = ["padded", "packed", "shared"]
    return {packing: collate(ragged_pairs, 0, packing) for packing in packings}
