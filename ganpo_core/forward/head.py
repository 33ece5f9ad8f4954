"""Log-probabilities of response tokens from what the head reads, tile by tile: their logits never exist together.

Shape suffixes: M response tokens, H width of the head's input, V words; C tokens and W words of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ganpo_core.anatomy import base_model, output_layer, text_config
from ganpo_core.forward.tiles import HeadSettings, Tile, add_product, parts_of, tiles

HEAD_STATISTICS = ("log_sum_sq_probs", "normalized_entropy", "top1")
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
        if hasattr(weight, "full_tensor"):  # sharded; the module that says so brings sympy, and `check` needs neither
            weight = weight.full_tensor()
        settings = HeadSettings(self.softcap, self.dtype or weight.dtype, names)
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


class _ResponseLogps(torch.autograd.Function):
    """`log_softmax(head(states))[target]`. The backward pass makes each tile's logits again.

    With a frozen weight the gradient of each log-probability by its state is found in the forward pass, where the
    softmax is at hand, and the backward pass only scales it.
    """

    @staticmethod
    def forward(
        ctx: Any, states_MH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_M: Tensor, settings: HeadSettings
    ) -> tuple[Tensor, ...]:
        wide = torch.promote_types(states_MH.dtype, torch.float32)
        frozen = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1] and not ctx.needs_input_grad[2]
        parts = [
            _read(states_MH[part], weight_VH, bias_V, target_M[part], settings, wide, frozen)
            for part in parts_of(states_MH, weight_VH)
        ]
        sums = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        ctx.settings = settings
        ctx.frozen = frozen
        if frozen:
            ctx.save_for_backward(sums["slope"].to(states_MH.dtype))
        else:
            ctx.save_for_backward(states_MH, weight_VH, bias_V, target_M, sums["normalizer"])
        given = [sums[name] for name in settings.statistics]
        ctx.mark_non_differentiable(*given)
        return sums["logps"], *given

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_M: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.frozen:
            (slope_MH,) = ctx.saved_tensors
            return (slope_MH * gradient_M[:, None]).to(slope_MH.dtype), None, None, None, None
        states_MH, weight_VH, bias_V, target_M, normalizer_M = ctx.saved_tensors
        for_states, for_weight, for_bias = ctx.needs_input_grad[:3]
        wide, settings = normalizer_M.dtype, ctx.settings
        states_grad = torch.zeros_like(states_MH, dtype=wide) if for_states else None
        # Written tile by tile: a gradient of its own for each would be as large as the weight every time.
        weight_grad = torch.empty_like(weight_VH, dtype=wide) if for_weight else None
        bias_grad = torch.zeros_like(bias_V, dtype=wide) if for_bias else None
        for part in parts_of(states_MH, weight_VH):
            target, gradient_C1 = target_M[part], gradient_M[part, None]
            for tile in tiles(states_MH[part], weight_VH, bias_V, settings, wide, with_slope=True):
                slope_CW = tile.logits.sub_(normalizer_M[part, None]).exp_().neg_()
                place_C1, inside_C1 = tile.find(target)
                slope_CW.scatter_add_(1, place_C1, inside_C1.to(wide))
                if tile.cap_slope is not None:
                    slope_CW.mul_(tile.cap_slope)
                slope_CW.mul_(gradient_C1)
                if states_grad is not None:
                    add_product(states_grad[part], slope_CW, tile.weight)
                if weight_grad is not None:
                    add_product(weight_grad[tile.words], slope_CW.T, tile.states, is_first=part.start == 0)
                if bias_grad is not None:
                    bias_grad[tile.words] += slope_CW.sum(0)
        return (
            None if states_grad is None else states_grad.to(states_MH.dtype),
            None if weight_grad is None else weight_grad.to(weight_VH.dtype),
            None if bias_grad is None else bias_grad.to(bias_V.dtype),
            None,
            None,
        )


def _read(
    states_CH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    target_C: Tensor,
    settings: HeadSettings,
    wide: torch.dtype,
    with_slope: bool,
) -> dict[str, Tensor]:
    """Log-probabilities, normalizers, statistics and, if asked, slopes [C, H] by the states, from one run over the words."""
    sums = _Sums.start(states_CH, settings, wide, with_slope)
    chosen_C = torch.zeros_like(sums.largest)
    for tile in tiles(states_CH, weight_VH, bias_V, settings, wide, with_slope):
        place_C1, inside_C1 = tile.find(target_C)
        chosen_C = torch.where(inside_C1, tile.logits.gather(1, place_C1), chosen_C[:, None])[:, 0]
        sums.add(tile)
    normalizer_C = sums.largest + sums.total.log()
    found = {"logps": chosen_C - normalizer_C, "normalizer": normalizer_C}
    if sums.squares is not None:
        found["log_sum_sq_probs"] = sums.squares.log() - 2 * sums.total.log()
    if sums.weighted is not None:
        found["normalized_entropy"] = (sums.total.log() - sums.weighted / sums.total) / math.log(len(weight_VH))
    if "top1" in settings.statistics:
        found["top1"] = (chosen_C >= sums.largest).to(wide)
    if sums.mean is not None:
        own_CH = weight_VH[target_C].to(wide)
        if settings.softcap is not None:
            own_CH *= 1 - (chosen_C[:, None] / settings.softcap).square()
        found["slope"] = own_CH - sums.mean / sums.total[:, None]
    return found


@dataclass
class _Sums:
    """Sums over the words read so far, of each token; all are relative to the largest logit among them."""

    largest: Tensor
    """[C], x* = max x."""
    total: Tensor
    """[C], of e = exp(x - x*)."""
    squares: Tensor | None = None
    """[C], of e^2."""
    weighted: Tensor | None = None
    """[C], of (x - x*) e."""
    mean: Tensor | None = None
    """[C, H], of e times the cap's slope times the word's weight."""

    @classmethod
    def start(cls, states_CH: Tensor, settings: HeadSettings, wide: torch.dtype, with_slope: bool) -> _Sums:
        """Before the first word."""
        zero_C = states_CH.new_zeros(len(states_CH), dtype=wide)
        # The lowest number rather than -inf: a tile whose words are all masked out stays finite.
        return cls(
            torch.full_like(zero_C, torch.finfo(wide).min),
            zero_C,
            zero_C if "log_sum_sq_probs" in settings.statistics else None,
            zero_C if "normalized_entropy" in settings.statistics else None,
            states_CH.new_zeros(states_CH.shape, dtype=wide) if with_slope else None,
        )

    def add(self, tile: Tile) -> None:
        """Read a tile; its logits are overwritten."""
        largest_C = torch.maximum(self.largest, tile.logits.amax(1))
        step_C = (self.largest - largest_C).clamp(min=-1e4)  # finite: 0 * inf would be NaN before the first word
        factor_C = step_C.exp()
        shifted_CW = tile.logits.sub_(largest_C[:, None])
        kept_CW = None if self.weighted is None else shifted_CW.clamp(min=-1e4)
        e_CW = shifted_CW.exp_()
        if self.weighted is not None and kept_CW is not None:
            old_C = (self.weighted + step_C * self.total) * factor_C
            self.weighted = old_C + kept_CW.mul_(e_CW).sum(1)
        self.total = self.total * factor_C + e_CW.sum(1)
        if self.squares is not None:
            self.squares = self.squares * factor_C.square() + e_CW.square().sum(1)
        if self.mean is not None:
            self.mean.mul_(factor_C[:, None])
            add_product(self.mean, e_CW if tile.cap_slope is None else e_CW.mul_(tile.cap_slope), tile.weight)
        self.largest = largest_C
