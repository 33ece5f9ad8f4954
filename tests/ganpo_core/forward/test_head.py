"""Log-probabilities without logits: against `log_softmax` on whole logits, values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ganpo_core.forward import head as module
from ganpo_core.forward import tiles
from ganpo_core.forward.head import Head

TOKENS, WIDTH, WORDS = 7, 5, 11


@pytest.fixture(autouse=True, params=[(22, 4), (28, 2), (10_000, 11)], ids=["parts_of_5", "words_4_by_4", "one_tile"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """7 tokens and 11 words in tiles of 5 tokens by 4 words, of all tokens by 4 words, or in one."""
    logits_held, fewest_words = request.param
    monkeypatch.setitem(tiles.LOGITS_HELD, "cpu", logits_held)
    monkeypatch.setattr(tiles, "FEWEST_WORDS", fewest_words)


def made(bias: bool = False, dtype: torch.dtype = torch.float64) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    linear = nn.Linear(WIDTH, WORDS, bias=bias, dtype=dtype)
    return linear, torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True), torch.randint(0, WORDS, (TOKENS,))


def plain(linear: nn.Linear, states: Tensor, target: Tensor, softcap: float | None) -> Tensor:
    logits = linear(states)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1).gather(1, target[:, None]).squeeze(1)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_values_and_gradients_are_those_of_whole_logits(softcap: float | None, bias: bool, frozen: bool) -> None:
    linear, states, target = made(bias)
    linear.requires_grad_(not frozen)
    weights = [states, *([] if frozen else linear.parameters())]
    upstream = torch.randn(TOKENS, dtype=torch.float64)
    found, _ = Head(softcap, None).logps(linear, states, target)
    expected = plain(linear, states, target, softcap)
    torch.testing.assert_close(found, expected)
    ours, theirs = torch.autograd.grad(found @ upstream, weights), torch.autograd.grad(expected @ upstream, weights)
    for mine, plainly in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plainly)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_gradients_agree_with_finite_differences(softcap: float | None) -> None:
    linear, states, target = made(bias=True)

    def of(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        linear = nn.Linear(WIDTH, WORDS, dtype=torch.float64)
        del linear.weight, linear.bias
        linear.weight, linear.bias = weight, bias  # type: ignore[assignment]
        return Head(softcap, None).logps(linear, states, target)[0]

    inputs = (states, linear.weight, linear.bias)
    assert torch.autograd.gradcheck(of, inputs)
    linear.requires_grad_(False)
    assert torch.autograd.gradcheck(of, inputs)


@pytest.mark.parametrize("wanted", [(True, False), (False, True)], ids=["states", "weight"])
def test_only_what_is_trained_gets_a_gradient(wanted: tuple[bool, bool]) -> None:
    linear, states, target = made()
    states, linear.weight.requires_grad = states.detach().requires_grad_(wanted[0]), wanted[1]
    Head(None, None).logps(linear, states, target)[0].sum().backward()
    assert (states.grad is not None, linear.weight.grad is not None) == wanted


def test_statistics_are_the_formulas_and_carry_no_gradient() -> None:
    linear, states, target = made()
    names = ("normalized_entropy", "log_sum_sq_probs", "top1")
    logps, found = Head(1.5, None).logps(linear, states, target, names)
    log_probs = (1.5 * torch.tanh(linear(states) / 1.5)).log_softmax(-1)
    words = torch.tensor(float(WORDS), dtype=torch.float64)
    expected = {
        "log_sum_sq_probs": log_probs.exp().square().sum(1).log(),
        "normalized_entropy": -(log_probs.exp() * log_probs).sum(1) / words.log(),
        "top1": (log_probs.argmax(1) == target).double(),
    }
    assert found.keys() == expected.keys() and logps.requires_grad
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values.detach(), rtol=1e-6, atol=1e-7)
        assert not found[name].requires_grad


@pytest.mark.parametrize("masked", [[3], [0, 1, 2, 3]], ids=["one", "a_tile"])
def test_words_masked_out_of_the_vocabulary_leave_everything_finite(masked: list[int]) -> None:
    linear, states, target = made(bias=True)
    with torch.no_grad():
        linear.bias[masked] = -torch.inf
    target = target.masked_fill(target <= 3, 4)
    logps, found = Head(None, None).logps(linear, states, target, module.HEAD_STATISTICS)
    logps.sum().backward()
    assert states.grad is not None
    assert all(torch.isfinite(value).all() for value in (logps, states.grad, *found.values()))


def test_huge_logits_stay_finite() -> None:
    linear, states, target = made(dtype=torch.float32)
    with torch.no_grad():
        linear.weight.mul_(1e4)
    logps, _ = Head(None, None).logps(linear, states, target)
    logps.sum().backward()
    assert states.grad is not None and torch.isfinite(logps).all() and torch.isfinite(states.grad).all()


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_bfloat16_products_give_float32_log_probabilities_and_float32_weight_gradients(frozen: bool) -> None:
    """As autocast does: products in bfloat16, everything after them in float32."""
    linear, states, target = made(dtype=torch.float32)
    linear.requires_grad_(not frozen)
    found, _ = Head(None, torch.bfloat16).logps(linear, states, target)
    with torch.autocast("cpu", torch.bfloat16):
        logits = linear(states)
    expected = logits.float().log_softmax(-1).gather(1, target[:, None]).squeeze(1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    (ours,) = torch.autograd.grad(found.sum(), states)
    (theirs,) = torch.autograd.grad(expected.sum(), states)
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
    if not frozen:
        Head(None, torch.bfloat16).logps(linear, states, target)[0].sum().backward()
        assert linear.weight.grad is not None and linear.weight.grad.dtype == torch.float32


def test_no_tensor_of_all_logits_exists() -> None:
    """The largest tensor made is the weight's gradient or a tile; all logits together are never held."""
    linear, states, target = made(dtype=torch.float32)
    sizes: list[int] = []
    for size in (22, 10_000):
        tiles.LOGITS_HELD["cpu"] = size
        sizes.append(largest(lambda: Head(None, None).logps(linear, states, target)[0].sum().backward()))
    assert sizes == [WIDTH * WORDS, TOKENS * WORDS]


def largest(work: Callable[[], object]) -> int:
    """The most elements of any tensor that an operation gives."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            given = func(*args, **(kwargs or {}))
            for one in given if isinstance(given, tuple | list) else [given]:
                if isinstance(one, Tensor):
                    self.most = max(self.most, one.numel())
            return given

    with Watch() as watch:
        work()
    return watch.most
