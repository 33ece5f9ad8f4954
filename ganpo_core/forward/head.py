"""Log-probabilities of response tokens from what the head reads, chunk by chunk: their logits never exist together.

Shape suffixes: M response tokens, H width of the head's input, V words; C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from ganpo_core.forward.statistics import OF_ONE
from ganpo_core.models import base_model, output_layer, text_config

CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**27}
"""Logits held at a time: 64 MB of float32 on a CPU; on a GPU enough tokens to fill a matrix product."""

HEAD_STATISTICS = (*OF_ONE, "top1")
"""What may be asked for beside the log-probabilities, without gradient; `top1` is 1 where the token is the likeliest."""


@dataclass(frozen=True)
class Head:
    """How a language model turns its last states into logits: `softcap * tanh(linear(states) / softcap)`."""

    softcap: float | None
    """None for the plain linear layer."""
    dtype: torch.dtype | None
    """Of the matrix products under autocast; None for the weights' own."""

    def logps(
        self, linear: nn.Linear, states_MH: Tensor, target_M: Tensor, statistics: Collection[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[M] in at least float32, differentiable in states and weights; and the HEAD_STATISTICS asked for, [M] each."""
        names = tuple(name for name in HEAD_STATISTICS if name in statistics)
        weight = linear.weight
        weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
        settings = _Settings(self.softcap, self.dtype or weight.dtype, names)
        found = _ResponseLogps.apply(states_MH, weight, linear.bias, target_M, settings)  # type: ignore[no-untyped-call]
        return found[0], dict(zip(names, found[1:], strict=True))


def find_head(model: nn.Module, dtype: torch.dtype) -> Head | str:
    """The model's head, or why it cannot be taken apart; `dtype` is the computation's."""
    output = output_layer(model)
    if output is None:
        return f"{type(base_model(model)).__name__} has no output layer"
    # Adapters and quantized layers are not linear in their `weight` alone.
    if type(output) is not nn.Linear:
        return f"the output layer is a {type(output).__name__}, not a plain linear layer"
    cap = getattr(text_config(model), "final_logit_softcapping", None)
    return Head(None if cap is None else float(cap), dtype if dtype == torch.bfloat16 else None)


@dataclass(frozen=True)
class _Settings:
    softcap: float | None
    dtype: torch.dtype
    statistics: tuple[str, ...]


class _ResponseLogps(torch.autograd.Function):
    """`log_softmax(head(states))[target]`. The backward pass makes each chunk's logits again.

    With a frozen weight the gradient of each log-probability by its state is found in the forward pass, where the
    softmax is at hand, and the backward pass only scales it.
    """

    @staticmethod
    def forward(
        ctx: Any, states_MH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_M: Tensor, settings: _Settings
    ) -> tuple[Tensor, ...]:
        wide = torch.promote_types(states_MH.dtype, torch.float32)
        normalizer_M, logps_M = (torch.empty(len(target_M), dtype=wide, device=states_MH.device) for _ in range(2))
        given = {name: torch.empty_like(logps_M) for name in settings.statistics}
        frozen = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1] and not ctx.needs_input_grad[2]
        slope_MH = torch.empty_like(states_MH) if frozen else None
        for part, chunk in _chunks(states_MH, weight_VH, bias_V, settings, wide):
            target = target_M[part, None]
            chosen = chunk.logits.gather(1, target).squeeze(1)
            largest = chunk.logits.amax(1)
            shifted_CV = chunk.logits.sub_(largest[:, None])
            for name in settings.statistics:
                given[name][part] = (chosen >= largest).to(wide) if name == "top1" else OF_ONE[name](shifted_CV)
            sum_C = shifted_CV.exp_().sum(1)
            normalizer_M[part] = largest + sum_C.log()
            logps_M[part] = chosen - normalizer_M[part]
            if slope_MH is not None:
                shifted_CV.div_(-sum_C[:, None])
                chunk.slope_(target)
                slope_MH[part] = chunk.times_weight()
        ctx.settings = settings
        ctx.frozen = frozen
        ctx.save_for_backward(*((slope_MH,) if frozen else (states_MH, weight_VH, bias_V, target_M, normalizer_M)))
        ctx.mark_non_differentiable(*given.values())
        return logps_M, *given.values()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_M: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.frozen:
            (slope_MH,) = ctx.saved_tensors
            return (slope_MH * gradient_M[:, None]).to(slope_MH.dtype), None, None, None, None
        states_MH, weight_VH, bias_V, target_M, normalizer_M = ctx.saved_tensors
        for_states, for_weight, for_bias = ctx.needs_input_grad[:3]
        wide = normalizer_M.dtype
        states_grad = torch.empty_like(states_MH) if for_states else None
        # One buffer for all chunks: a gradient of its own for each would be as large as the weight every time.
        weight_grad = torch.zeros_like(weight_VH, dtype=wide) if for_weight else None
        bias_grad = torch.zeros_like(bias_V, dtype=wide) if for_bias else None
        for part, chunk in _chunks(states_MH, weight_VH, bias_V, ctx.settings, wide):
            chunk.logits.sub_(normalizer_M[part, None]).exp_().neg_()
            chunk.slope_(target_M[part, None])
            chunk.logits.mul_(gradient_M[part, None])
            if states_grad is not None:
                states_grad[part] = chunk.times_weight()
            if weight_grad is not None:
                chunk.add_outer_(weight_grad)
            if bias_grad is not None:
                bias_grad += chunk.logits.sum(0)
        return (
            states_grad,
            None if weight_grad is None else weight_grad.to(weight_VH.dtype),
            None if bias_grad is None else bias_grad.to(bias_V.dtype),
            None,
            None,
        )


@dataclass
class _Chunk:
    """The logits of some tokens, in a buffer that is overwritten by the softmax and by its slope."""

    logits: Tensor
    """[C, V]."""
    capped: Tensor | None
    """[C, V], tanh(linear / softcap); None where logits are not capped."""
    states: Tensor
    """[C, H]."""
    weight: Tensor
    """[V, H], in the dtype of the products."""

    def slope_(self, target_C1: Tensor) -> None:
        """In place: minus the softmax becomes the slope of the log-probability by the linear layer's output."""
        one = torch.ones((), dtype=self.logits.dtype, device=target_C1.device).expand(target_C1.shape)
        self.logits.scatter_add_(1, target_C1, one)
        if self.capped is not None:
            self.logits.mul_(self.capped.square_().neg_().add_(1))

    def times_weight(self) -> Tensor:
        """[C, H], the slope carried through the linear layer."""
        return self.logits.to(self.weight.dtype) @ self.weight

    def add_outer_(self, total_VH: Tensor) -> None:
        """Add the slope's product with the states to the weight's gradient."""
        if self.states.dtype == total_VH.dtype:
            total_VH.addmm_(self.logits.T, self.states)
        else:
            total_VH.add_(self.logits.to(self.states.dtype).T @ self.states)


def _chunks(
    states_MH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, settings: _Settings, wide: torch.dtype
) -> Iterator[tuple[slice, _Chunk]]:
    num_tokens, num_words = len(states_MH), len(weight_VH)
    size = max(1, min(num_tokens, CHUNK_ELEMENTS.get(states_MH.device.type, CHUNK_ELEMENTS["cpu"]) // num_words))
    weight_VH = weight_VH.to(settings.dtype)
    shape, device = (size, num_words), states_MH.device
    # Written again for every chunk: a fresh 64 MB each time costs a CPU more than the softmax.
    product_CV = torch.empty(shape, dtype=settings.dtype, device=device)
    wide_CV = product_CV if settings.dtype == wide else torch.empty(shape, dtype=wide, device=device)
    tanh_CV = None if settings.softcap is None else torch.empty(shape, dtype=wide, device=device)
    for start in range(0, num_tokens, size):
        states_CH = states_MH[start : start + size].to(settings.dtype)
        used = len(states_CH)
        with torch.autocast(device.type, enabled=False):
            torch.mm(states_CH, weight_VH.T, out=product_CV[:used])
        logits_CV = wide_CV[:used] if wide_CV is product_CV else wide_CV[:used].copy_(product_CV[:used])
        if bias_V is not None:
            logits_CV += bias_V
        capped_CV = None
        if settings.softcap is not None and tanh_CV is not None:
            capped_CV = torch.tanh(logits_CV.div_(settings.softcap), out=tanh_CV[:used])
            torch.mul(capped_CV, settings.softcap, out=logits_CV)
        yield slice(start, start + used), _Chunk(logits_CV, capped_CV, states_CH, weight_VH)
