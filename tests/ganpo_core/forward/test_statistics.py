"""Quantities of whole next-token distributions, against the plain formulas on plain logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ganpo_core.data import PairBatch, TokenPair, collate
from ganpo_core.forward import Wanted, response_pass
from ganpo_core.forward import statistics as module
from ganpo_core.types import PairLogps

NAMES = frozenset({"log_sum_sq_probs", "normalized_entropy", "reference_kl"})


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> tuple[nn.Module, nn.Module]:
    """A policy and another model for its reference, in float64."""
    from transformers import AutoModelForCausalLM

    made = [AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64) for _ in range(2)]
    with torch.no_grad():
        for weight in made[0].parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=weight.dtype))
    return made[0], made[1]


@pytest.fixture
def batch() -> PairBatch:
    pairs = [TokenPair((1, 5, 6), (7, 8, 9, 2), (10, 2), "test", 1), TokenPair((1, 7), (4, 2), (5, 6, 7, 8, 2), "test", 2)]
    return collate(pairs, 0)


def both_passes(models: tuple[nn.Module, nn.Module], batch: PairBatch) -> tuple[PairLogps, PairLogps]:
    policy, reference = models
    with torch.no_grad():
        anchor = response_pass(reference, reference, batch, wanted=Wanted("reference", NAMES))
    found = response_pass(policy, policy, batch, wanted=Wanted("policy", NAMES, token_ids=True, reference_logits=anchor.logits))
    assert found.logps is not None and anchor.logps is not None
    return found.logps, anchor.logps


def by_hand(model: nn.Module, batch: PairBatch) -> list[Tensor]:
    """[T, V] log-probabilities at each row's response positions."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.tokens.valid.long()).logits
    return [
        row.log_softmax(-1)[mask.nonzero().flatten() - 1]
        for row, mask in zip(logits, batch.tokens.response, strict=True)
    ]


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_statistics_are_the_formulas(
    chunk: int, models: tuple[nn.Module, nn.Module], batch: PairBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    policy, reference = both_passes(models, batch)
    rows = list(zip(by_hand(models[0], batch), by_hand(models[1], batch), strict=True))
    for index, (mine, theirs) in enumerate(rows):
        side = "chosen" if index < 2 else "rejected"
        own, anchor, row = getattr(policy, side), getattr(reference, side), index % 2
        valid = own.mask[row]
        wanted = {
            "log_sum_sq_probs": mine.exp().square().sum(-1).log(),
            "reference_kl": (theirs.exp() * (theirs - mine)).sum(-1),
        }
        for name, values in wanted.items():
            torch.testing.assert_close(own.statistics[name][row][valid], values)
        entropy = -(theirs.exp() * theirs).sum(-1) / torch.log(torch.tensor(28.0, dtype=torch.float64))
        torch.testing.assert_close(anchor.statistics["normalized_entropy"][row][valid], entropy)
        assert own.token_ids is not None
        assert own.token_ids[row][valid].tolist() == batch.input_ids[index][batch.tokens.response[index]].tolist()
    assert set(policy.chosen.statistics) == {"log_sum_sq_probs", "reference_kl"}
    assert set(reference.chosen.statistics) == {"normalized_entropy"}


def test_divergence_from_the_reference_carries_its_gradient(
    models: tuple[nn.Module, nn.Module], batch: PairBatch
) -> None:
    policy, _ = both_passes(models, batch)
    weight = models[0].get_output_embeddings().weight
    total = policy.chosen.statistics["reference_kl"].sum() + policy.rejected.statistics["reference_kl"].sum()
    (found,) = torch.autograd.grad(total, weight)
    plain = sum(
        (theirs.detach().exp() * (theirs.detach() - mine)).sum()
        for mine, theirs in zip(by_hand(models[0], batch), by_hand(models[1], batch), strict=True)
    )
    assert isinstance(plain, Tensor)
    torch.testing.assert_close(found, torch.autograd.grad(plain, weight)[0])
    assert not policy.chosen.statistics["log_sum_sq_probs"].requires_grad


def test_nothing_is_computed_or_kept_that_nobody_asked_for(
    models: tuple[nn.Module, nn.Module], batch: PairBatch
) -> None:
    found = response_pass(models[0], models[0], batch)
    assert found.logits is None and found.logps is not None
    assert found.logps.chosen.statistics == {} and found.logps.chosen.token_ids is None
    kept = response_pass(models[1], models[1], batch, wanted=Wanted("reference", frozenset({"normalized_entropy"})))
    assert kept.logits is None
