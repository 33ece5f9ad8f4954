"""The Transformer critic: against torch's own encoder, and at the edges of its rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ganpo_discriminators import transformer
from ganpo_discriminators.rows import PaddedRows, TightRows
from ganpo_discriminators.transformer import EncoderLayer, Transformer
from torch import nn

SMALL = {"hidden_dim": 16, "num_heads": 2, "dropout": 0.0}


def build(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return Transformer(**{**SMALL, **options}).build(4)  # type: ignore[arg-type]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def all_valid(states: torch.Tensor) -> torch.Tensor:
    return torch.ones(states.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("way", [PaddedRows, TightRows])
def test_encoder_layer_equals_torch_s_pre_norm_layer(way: Callable[[torch.Tensor], PaddedRows | TightRows]) -> None:
    torch.manual_seed(0)
    ours = EncoderLayer(width=16, num_heads=2, ffn_dim=24, dropout=0.0)
    theirs = nn.TransformerEncoderLayer(16, 2, 24, 0.0, nn.functional.gelu, batch_first=True, norm_first=True)
    names = {
        "self_attn.in_proj_": "query_key_value.",
        "self_attn.out_proj.": "attention_out.",
        "linear1.": "ffn_in.",
        "linear2.": "ffn_out.",
        "norm1.": "attention_norm.",
        "norm2.": "ffn_norm.",
    }
    state = {old + end: ours.state_dict()[new + end] for old, new in names.items() for end in ("weight", "bias")}
    theirs.load_state_dict(state)
    states = torch.randn(3, 5, 16)
    read = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    rows = way(read)
    found = rows.positions(ours(rows.tokens(states), rows))
    torch.testing.assert_close(found[read], theirs(states, src_key_padding_mask=~read)[read], atol=1e-6, rtol=1e-5)


def test_rows_without_padding_give_the_scores_and_gradients_of_padded_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 5, 0, 3 and 1 tokens, one of them with a gap."""
    read = torch.arange(5) < torch.tensor([5, 0, 4, 1])[:, None]
    read[2, 1] = False
    found = []
    for way in (TightRows, PaddedRows):
        monkeypatch.setattr(transformer, "rows_of", way)
        module, states = build().double(), torch.randn(4, 5, 4, dtype=torch.float64, generator=generator())
        states.requires_grad_()
        scores = module(states, read)
        weights = list(module.parameters())
        gradients = torch.autograd.grad((scores * torch.arange(1, 5)).sum(), [states, *weights])
        found.append([scores, module.features(states, read), *gradients])  # type: ignore[operator]
    for tight, padded in zip(*found, strict=True):
        torch.testing.assert_close(tight, padded, atol=1e-12, rtol=1e-10)


def test_rows_without_a_single_token_score_0() -> None:
    module = build().double()
    scores = module(torch.randn(2, 3, 4, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.bool))
    assert scores.tolist() == [0.0, 0.0]
    scores.sum().backward()


def test_training_and_evaluation_agree_without_dropout() -> None:
    module, states = build(), torch.randn(3, 6, 4)
    for layer in module.modules():
        layer.training = True
    module.get_submodule("project_in.parametrizations").eval()
    module.get_submodule("head.0.parametrizations").eval()
    module.get_submodule("head.2.parametrizations").eval()
    training = module(states, all_valid(states))
    assert torch.equal(training, module.eval()(states, all_valid(states)))


def test_dropout_is_drawn_in_training_mode() -> None:
    module, states = build(dropout=0.5).train(), torch.randn(3, 6, 4)
    assert not torch.equal(module(states, all_valid(states)), module(states, all_valid(states)))


def test_padding_never_changes_a_score_wherever_it_lies() -> None:
    module, states = build().eval(), torch.randn(3, 6, 4)
    scores = module(states, all_valid(states))
    for left, right in ((0, 4), (4, 0), (2, 3)):
        padded = nn.functional.pad(states, (0, 0, left, right), value=1e3)
        mask = nn.functional.pad(all_valid(states), (left, right))
        torch.testing.assert_close(module(padded, mask), scores, atol=1e-6, rtol=1e-6)


def test_the_order_of_tokens_matters() -> None:
    module, states = build().eval(), torch.randn(1, 6, 4)
    assert not torch.allclose(module(states.flip(1), all_valid(states)), module(states, all_valid(states)), atol=1e-5)


@pytest.mark.parametrize(("overlong", "kept"), [("keep_last", slice(6, 9)), ("keep_first", slice(0, 3))])
def test_rows_of_too_many_tokens_are_cut(overlong: str, kept: slice) -> None:
    """Nine valid tokens before one padding, three positions: the last or the first three count, as if alone."""
    module, states = build(max_positions=3, overlong=overlong).eval(), torch.randn(2, 10, 4)
    mask = all_valid(states)
    mask[:, 9] = False
    alone = states[:, kept]
    torch.testing.assert_close(module(states, mask), module(alone, all_valid(alone)), atol=1e-6, rtol=1e-6)
    assert module.features(states, mask)[:, kept].ne(0).any()  # type: ignore[operator]
    assert module.features(states, mask).ne(0).any(-1).sum().item() == 2 * 3  # type: ignore[operator]


def test_only_the_layers_around_the_encoder_carry_a_spectral_norm() -> None:
    normed = {name for name, _ in build().named_parameters() if name.endswith("parametrizations.weight.original")}
    assert {name.split(".parametrizations")[0] for name in normed} == {"project_in", "head.0", "head.2"}
    assert not any("parametrizations" in name for name, _ in build(spectral_norm=False).named_parameters())


def test_positions_start_small() -> None:
    positions = Transformer().build(4).get_parameter("positions.weight")
    assert positions.shape == (2048, 512)
    assert positions.std().item() == pytest.approx(0.02, rel=0.01)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_dim 10 is not a multiple of num_heads 4"):
        Transformer(hidden_dim=10, num_heads=4)
