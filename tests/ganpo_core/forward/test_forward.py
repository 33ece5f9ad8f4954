"""The forward pass against the model's own logits and hidden states, for several architectures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, Qwen3Config

from ganpo_core.anatomy import checkpoint_activations
from ganpo_core.data import PairBatch, TokenPair, collate
from ganpo_core.errors import ConfigError
from ganpo_core.forward import capture, response_pass
from ganpo_core.forward.capture import resolve_layer
from ganpo_core.types import Layer, Module

SHAPE = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE, sliding_window=4, final_logit_softcapping=5.0, query_pre_attn_scalar=8),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=3, n_head=2, n_positions=64, initializer_range=0.3,
                       bos_token_id=1, eos_token_id=2),
}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    return made.eval()


def ragged_batch() -> PairBatch:
    """Three pairs whose prompts, chosen and rejected responses all differ in length."""
    draw = torch.Generator().manual_seed(1)
    lengths = [(3, 5, 2), (7, 1, 9), (1, 4, 4)]

    def ids(count: int) -> list[int]:
        found: list[int] = torch.randint(3, 40, (count,), generator=draw).tolist()
        return found

    return collate([TokenPair(ids(p), ids(c), ids(r), "test", row) for row, (p, c, r) in enumerate(lengths)], 0)


def row_logps(model: nn.Module, batch: PairBatch, row: int) -> Tensor:
    """The response's log-probabilities from one unpadded row through the plain model."""
    ids = batch.input_ids[row][batch.tokens.valid[row]]
    start = int(batch.tokens.prompt[row].sum())
    logits = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    return torch.stack([logits[position - 1, ids[position]] for position in range(start, len(ids))])


def test_log_probabilities_are_those_of_unpadded_rows(model: nn.Module) -> None:
    batch = ragged_batch()
    found = response_pass(model, model, batch).logps
    assert found is not None
    for side, sign in ((found.chosen, 0), (found.rejected, 3)):
        for pair in range(3):
            expected = row_logps(model, batch, sign + pair)
            assert int(side.length[pair]) == len(expected)
            torch.testing.assert_close(side.logps[pair][side.mask[pair]], expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(side.total[pair], expected.sum(), rtol=0, atol=1e-4)
            torch.testing.assert_close(side.mean[pair], expected.mean(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_captured_layers_are_the_models_own_hidden_states(model: nn.Module, checkpointing: bool) -> None:
    batch = ragged_batch()
    expected = model(batch.input_ids, attention_mask=batch.tokens.valid.long(), output_hidden_states=True).hidden_states
    if checkpointing:
        checkpoint_activations(model)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    sources = tuple(Layer(index) for index in (0, 1, 2, 3))
    captured = response_pass(model, model, batch, sources, logps=False).captured
    valid = batch.tokens.valid
    for source in sources:
        torch.testing.assert_close(captured[source][valid], expected[int(source.index)][valid], rtol=0, atol=1e-6)
    captured[Layer(3)].sum().backward()
    assert all(weight.grad is not None for weight in model.base_model.parameters())  # type: ignore[union-attr]


def test_the_last_layer_is_what_the_head_reads(model: nn.Module) -> None:
    batch = ragged_batch()
    states = response_pass(model, model, batch, (Layer(-1),), logps=False).captured[Layer(-1)]
    logits = model.get_output_embeddings()(states)  # type: ignore[operator]
    cap = getattr(model.config, "final_logit_softcapping", None)
    logits = cap * torch.tanh(logits / cap) if cap else logits
    expected = model(batch.input_ids, attention_mask=batch.tokens.valid.long()).logits
    valid = batch.tokens.valid
    torch.testing.assert_close(logits[valid], expected[valid], rtol=0, atol=1e-5)


def test_layers_count_from_both_ends_and_by_fraction() -> None:
    """Of 12 layers: -1 is 12 (what the head reads), -13 the embeddings, 0.5 layer 6, 0.3 layer 4 (3.6 rounded)."""
    assert [resolve_layer(index, 12) for index in (0, 5, 12, -1, -12, -13, 0.5, 0.3)] == [0, 5, 12, 12, 1, 0, 6, 4]
    for wrong in (13, -14, 1.5):
        with pytest.raises(ConfigError, match=r"latents\.layer"):
            resolve_layer(wrong, 12)


def test_only_what_is_asked_for_is_captured_and_no_hook_stays(model: nn.Module) -> None:
    batch = ragged_batch()
    with capture(model, (Layer(1),)) as states:
        model(batch.input_ids)
    assert list(states) == [Layer(1)]
    model(batch.input_ids)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_module_is_read_by_its_path_and_a_wrong_one_is_named() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"])
    batch = ragged_batch()
    source = Module("model.layers.1.mlp")
    captured = response_pass(model, model, batch, (source,), logps=False).captured
    assert captured[source].shape == (*batch.input_ids.shape, 16)
    with pytest.raises(ConfigError, match=r"no module 'model\.layers\.1\.mpl'\. Did you mean 'model\.layers\.1\.mlp'"):
        response_pass(model, model, batch, (Module("model.layers.1.mpl"),), logps=False)


def test_padding_changes_nothing(model: nn.Module) -> None:
    """The same pair alone, and beside a much longer one, whatever token the padding holds."""
    batch = ragged_batch()
    alone = collate([TokenPair([5, 6], [7, 8, 9], [10], "test", 1)], 0)
    long = TokenPair([11] * 9, [12] * 8, [13] * 9, "test", 2)
    beside = collate([TokenPair([5, 6], [7, 8, 9], [10], "test", 1), long], 31)
    assert batch.num_pairs == 3
    one, two = response_pass(model, model, alone).logps, response_pass(model, model, beside).logps
    assert one is not None and two is not None
    torch.testing.assert_close(one.chosen.total[0], two.chosen.total[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(one.rejected.total[0], two.rejected.total[0], rtol=0, atol=1e-5)
