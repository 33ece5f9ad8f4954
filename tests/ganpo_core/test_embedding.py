"""A tied embedding's gradient: the same numbers, and one matrix of the vocabulary's size instead of two."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from ganpo_core.embedding import share_tied_gradient

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def llama(tied: bool) -> nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, pad_token_id=0, tie_word_embeddings=tied)).double()


def gemma() -> nn.Module:
    """Scales what it looks up."""
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, num_key_value_heads=1, pad_token_id=0)).double()


IDS = torch.tensor([[1, 7, 7, 3, 0]])


@pytest.mark.parametrize("model", [llama(tied=True), llama(tied=False), gemma()], ids=["tied", "untied", "scaled"])
def test_the_gradient_is_autograds(model: nn.Module) -> None:
    weight = model.get_input_embeddings().weight  # type: ignore[operator]
    expected, *_ = torch.autograd.grad(model(IDS).logits.square().sum(), [weight])
    share_tied_gradient(model)
    for count in (1, 2):  # the second is added to the first, as in a window of two micro-batches
        model(IDS).logits.square().sum().backward()
        assert weight.grad.layout == torch.strided
        torch.testing.assert_close(weight.grad, count * expected, rtol=1e-12, atol=1e-12)


def test_a_pass_without_the_output_layer_still_counts() -> None:
    model = llama(tied=True)
    weight = model.get_input_embeddings().weight  # type: ignore[operator]
    expected, *_ = torch.autograd.grad(model.model(IDS).last_hidden_state.square().sum(), [weight])  # type: ignore[operator]
    share_tied_gradient(model)
    model.model(IDS).last_hidden_state.square().sum().backward()  # type: ignore[operator]
    torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=1e-12)


def test_one_matrix_is_filled() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": 4000}, pad_token_id=0, tie_word_embeddings=True))
    weight = model.get_input_embeddings().weight

    def matrices() -> int:
        """Allocations of the vocabulary's size in a backward pass; the five tokens' logits are smaller."""
        loss = model(IDS).logits.square().sum()
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            loss.backward()
        return sum(event.self_cpu_memory_usage >= weight.numel() * 4 for event in profile.events())

    assert matrices() > 1
    weight.grad = None
    share_tied_gradient(model)
    assert matrices() == 1


def test_a_frozen_embedding_is_left_alone() -> None:
    model = llama(tied=True).requires_grad_(False)
    share_tied_gradient(model)
    assert not model.get_input_embeddings().sparse  # type: ignore[operator]
