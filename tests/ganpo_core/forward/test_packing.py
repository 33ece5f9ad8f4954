"""Padded, packed and shared layouts are the same computation, for every architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from ganpo_core.anatomy import checkpoint_activations
from ganpo_core.data import Packing, PairBatch, TokenPair, collate
from ganpo_core.errors import TrainingError
from ganpo_core.forward import Pass, Wanted, response_pass
from ganpo_core.forward.attention import FUSED, PLAIN, use_segment_attention
from ganpo_core.forward.head import Head, find_head
from ganpo_core.types import Layer

MakeModel = Callable[..., nn.Module]
LAYERS = tuple(Layer(index) for index in range(4))
PACKED: list[Packing] = ["packed", "shared"]


def run(model: nn.Module, batch: PairBatch, sources: Sequence[Layer] = (), head: Head | None = None) -> Pass:
    return response_pass(model, model, batch, sources, head=head)


def own_head(model: nn.Module) -> Head:
    head = find_head(model, torch.float32)
    assert isinstance(head, Head)
    return head


def sides(found: Pass) -> tuple[Tensor, Tensor]:
    assert found.logps is not None
    return found.logps.chosen.logps, found.logps.rejected.logps


def gradients(model: nn.Module, found: Pass, valid: Tensor) -> dict[str, Tensor]:
    """Of something that weighs every response token, and every state of every row, differently."""
    parts = [*sides(found), *(states[valid] for states in found.captured.values())]
    total = torch.stack([(part * torch.linspace(0.5, 1.5, part.numel()).view_as(part)).sum() for part in parts]).sum()
    weights = dict(model.named_parameters())
    return dict(zip(weights, torch.autograd.grad(total, list(weights.values())), strict=True))


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() <= 1e-5 * expected.norm(), name


@pytest.mark.parametrize("implementation", [FUSED, PLAIN])
@pytest.mark.parametrize("packing", PACKED)
def test_log_probabilities_states_and_gradients_are_those_of_padded_rows(
    packing: Packing,
    implementation: str,
    architecture: str,
    make_model: MakeModel,
    ragged_batches: dict[Packing, PairBatch],
) -> None:
    model, batch = make_model(architecture), ragged_batches[packing]
    valid = batch.tokens.valid
    expected = run(model, ragged_batches["padded"], LAYERS)
    wanted = gradients(model, expected, valid)
    use_segment_attention(model, implementation)
    for head in (None, own_head(model)):
        found = run(model, batch, LAYERS, head)
        for mine, plain in zip(sides(found), sides(expected), strict=True):
            torch.testing.assert_close(mine, plain, rtol=0, atol=1e-5)
        for source in LAYERS:
            torch.testing.assert_close(found.captured[source][valid], expected.captured[source][valid], rtol=1e-5, atol=1e-5)
            assert bool((found.captured[source][~valid] == 0).all())
        assert_close(gradients(model, found, valid), wanted)


@pytest.mark.parametrize("implementation", [FUSED, PLAIN])
def test_padded_rows_are_what_they_were_before_the_model_attends_by_segments(
    implementation: str, architecture: str, make_model: MakeModel, ragged_batches: dict[Packing, PairBatch]
) -> None:
    model, batch = make_model(architecture), ragged_batches["padded"]
    expected = run(model, batch)
    use_segment_attention(model, implementation)
    for mine, plain in zip(sides(run(model, batch, head=own_head(model))), sides(expected), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("packing", PACKED)
def test_gradient_checkpointing_attends_by_the_same_segments_again(
    packing: Packing, architecture: str, make_model: MakeModel, ragged_batches: dict[Packing, PairBatch]
) -> None:
    """Layers run a second time in the backward pass, when the forward pass is long over."""
    model, batch = make_model(architecture), ragged_batches[packing]
    use_segment_attention(model, FUSED)
    wanted = gradients(model, run(model, batch, LAYERS), batch.tokens.valid)
    checkpoint_activations(model)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    found = gradients(model, run(model, batch, LAYERS), batch.tokens.valid)
    assert_close(found, wanted)


@pytest.mark.parametrize("packing", PACKED)
def test_neighbours_in_a_row_change_nothing(
    packing: Packing, architecture: str, make_model: MakeModel, ragged_pairs: list[TokenPair]
) -> None:
    model = make_model(architecture)
    use_segment_attention(model, FUSED)
    expected = run(model, collate(ragged_pairs, 0, packing))
    order = [3, 0, 4, 2, 1]
    shuffled = run(model, collate([ragged_pairs[index] for index in order], 0, packing))
    for mine, theirs in zip(sides(shuffled), sides(expected), strict=True):
        torch.testing.assert_close(mine, theirs[order], rtol=0, atol=1e-5)
    alone = run(model, collate(ragged_pairs[3:4], 0, packing))
    for mine, theirs in zip(sides(alone), sides(expected), strict=True):
        torch.testing.assert_close(mine[0], theirs[3, : mine.shape[1]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("packing", PACKED)
def test_no_padding_token_is_ever_computed(
    packing: Packing, architecture: str, make_model: MakeModel, ragged_batches: dict[Packing, PairBatch]
) -> None:
    """The embedding of padding is not a number, and everything is as before."""
    model, batch = make_model(architecture), ragged_batches[packing]
    use_segment_attention(model, FUSED)
    expected = run(model, batch, LAYERS, own_head(model))
    wanted = gradients(model, expected, batch.tokens.valid)
    lengths = sum(p + c + r for p, c, r in batch.lengths) + (packing == "packed") * sum(p for p, _, _ in batch.lengths)
    assert batch.layout.input_ids.shape == (1, lengths) and batch.layout.valid is None
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    # Tied weights are the output layer too: the word stays out of what is compared there.
    if embedding.weight is not model.get_output_embeddings().weight:  # type: ignore[operator]
        with torch.no_grad():
            embedding.weight[0] = torch.nan
    found = run(model, batch, LAYERS, own_head(model))
    for mine, theirs in zip(sides(found), sides(expected), strict=True):
        assert torch.equal(mine, theirs)
    assert_close(gradients(model, found, batch.tokens.valid), wanted)


def test_states_at_padding_that_are_not_numbers_change_nothing(
    architecture: str, make_model: MakeModel, ragged_batches: dict[Packing, PairBatch]
) -> None:
    model, batch = make_model(architecture), ragged_batches["padded"]
    head = own_head(model)
    expected = run(model, batch, head=head)
    wanted = gradients(model, expected, batch.tokens.valid)
    padding = ~batch.tokens.valid[..., None]
    poison = model.get_output_embeddings().register_forward_pre_hook(  # type: ignore[operator]
        lambda _module, inputs: (inputs[0].masked_fill(padding, torch.nan),)
    )
    found = run(model, batch, head=head)
    poison.remove()
    for mine, theirs in zip(sides(found), sides(expected), strict=True):
        assert torch.equal(mine, theirs)
    assert_close(gradients(model, found, batch.tokens.valid), wanted)


@pytest.mark.parametrize("packing", ["padded", *PACKED])
def test_single_responses_are_scored_as_in_a_pair(
    packing: Packing, architecture: str, make_model: MakeModel, ragged_pairs: list[TokenPair]
) -> None:
    model = make_model(architecture)
    use_segment_attention(model, FUSED)
    chosen, rejected = sides(run(model, collate(ragged_pairs, 0)))
    singles = [
        TokenPair(pair.prompt, pair.chosen if row % 2 else (), () if row % 2 else pair.rejected, "test", row)
        for row, pair in enumerate(ragged_pairs)
    ]
    batch = collate(singles, 0, packing)
    found = run(model, batch, LAYERS, own_head(model))
    for row in range(len(singles)):
        own, other = sides(found) if row % 2 else reversed(sides(found))
        expected = (chosen if row % 2 else rejected)[row]
        torch.testing.assert_close(own[row].sum(), expected.sum(), rtol=0, atol=1e-4)
        assert not other[row].any()
    assert all((states[~batch.tokens.valid.any(1)] == 0).all() for states in found.captured.values())


def test_a_model_that_does_not_attend_by_segments_is_not_trusted_with_a_packed_row(
    architecture: str, make_model: MakeModel, ragged_batches: dict[Packing, PairBatch]
) -> None:
    """With positions that start again and no mask, transformers would take the row for something else, silently."""
    model = make_model(architecture)
    with pytest.raises(TrainingError, match=r"0 of 3 layers of \w+ attended by segments"):
        run(model, ragged_batches["shared"])


@pytest.mark.parametrize("packing", ["padded", *PACKED])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_prompts_are_scored_where_they_are_asked_for(
    name: str, packing: Packing, make_model: MakeModel, ragged_batches: dict[Packing, PairBatch], ragged_pairs: list[TokenPair]
) -> None:
    """Each prompt's tokens after the first, once a pair, as the model's own logits on the prompt alone have them."""
    model = make_model(name)
    if packing != "padded":
        use_segment_attention(model, FUSED)
    batch, wanted = ragged_batches[packing], Wanted(prompt=True, token_statistics=frozenset({"log_sum_sq_probs"}))
    plain = run(model, batch)
    for head in (None, own_head(model)):
        found = response_pass(model, model, batch, wanted=wanted, head=head)
        assert found.logps is not None and found.logps.prompt is not None
        prompt = found.logps.prompt
        assert prompt.mask.sum(1).tolist() == [len(pair.prompt) - 1 for pair in ragged_pairs]
        for row, pair in enumerate(ragged_pairs):
            ids = torch.tensor([pair.prompt])
            alone = make_model(name)(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            torch.testing.assert_close(prompt.logps[row][prompt.mask[row]], alone, rtol=0, atol=1e-5)
        for mine, expected in zip(sides(found), sides(plain), strict=True):
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)
        assert found.logps.chosen.statistics["log_sum_sq_probs"].shape == found.logps.chosen.logps.shape
