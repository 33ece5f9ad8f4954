"""Parts of a transformers model, plain, under adapters, and where buffers are computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from ganpo_core.anatomy import base_model, disable_dropout, is_composite, output_layer, stored_buffers, text_config

SIZES = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def llama(**options: object) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SIZES, pad_token_id=0, **options))


def test_adapters_hide_no_part() -> None:
    peft = pytest.importorskip("peft")
    model = llama()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert base_model(wrapped) is model
    assert output_layer(wrapped) is model.lm_head
    assert text_config(wrapped) is model.config
    assert not is_composite(wrapped)


def test_only_buffers_of_the_files_are_stored() -> None:
    """Rotary frequencies are computed: a model may compute them again as it runs."""
    model = llama()
    model.model.register_buffer("kept", torch.ones(2))
    assert "model.rotary_emb.inv_freq" in dict(model.named_buffers())
    assert list(stored_buffers(model)) == ["model.kept"]


def test_dropout_is_off_in_modules_and_in_attention() -> None:
    model = llama(attention_dropout=0.5).train()
    model.model.add_module("more", nn.Dropout(0.5))
    ids = torch.randint(20, (1, 12))
    assert not torch.equal(model(ids).logits, model(ids).logits)
    disable_dropout(model)
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert model.model.more.p == 0.0  # type: ignore[union-attr]


def test_dropout_is_off_where_a_layer_calls_the_function() -> None:
    sizes = {"vocab_size": 20, "hidden_size": 8, "ffn_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=8, dropout=0.5)).train()
    ids = torch.randint(20, (1, 12))
    assert not torch.equal(model(ids).logits, model(ids).logits)
    disable_dropout(model)
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("name", ["attention_dropout", "attn_pdrop", "attn_dropout_p", "hidden_dropout_prob", "layerdrop"])
def test_a_probability_is_known_by_its_name(name: str) -> None:
    """As layers of transformers call theirs."""
    layer = nn.Linear(2, 2)
    setattr(layer, name, 0.5)
    layer.token_dropout = True  # a switch, not a probability
    layer.scale = 0.5
    disable_dropout(nn.Sequential(layer))
    assert getattr(layer, name) == 0.0
    assert layer.token_dropout is True
    assert layer.scale == 0.5
