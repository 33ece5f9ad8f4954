"""How steep a critic is at given latents; what gradient penalties are made of.

Shape suffixes: N rows, S positions, H latent width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ganpo_core import Latents


def squared_slopes(critic: nn.Module, latents: Latents) -> Tensor:
    """[N], the square of the critic's slope at each row, differentiable in its weights; 0 for empty rows.

    Two rows are as far apart as the root mean square, over valid positions, of the distance of their latents; the
    slope is the dual of that: n positions times the sum of the gradient's squares. A critic of the mean latent then
    has its own slope in that mean, whatever the length of a row.
    """
    keep_NS1 = latents.mask[..., None]
    dtype = torch.promote_types(latents.states.dtype, torch.float32)
    states_NSH = latents.states.detach().to(dtype).masked_fill(~keep_NS1, 0.0).requires_grad_()
    # The kernels that can be differentiated twice: plain attention, and recurrent layers outside of cuDNN.
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        scores_N = critic(states_NSH, latents.mask)
    (gradient_NSH,) = torch.autograd.grad(scores_N.sum(), states_NSH, create_graph=True)
    return latents.mask.sum(1) * gradient_NSH.square().sum((1, 2))


def mean_over_rows(values_N: Tensor, mask_NS: Tensor) -> Tensor:
    """Scalar, the mean over rows that have a valid position; 0 where none has."""
    valid_N = mask_NS.any(1)
    return values_N.masked_fill(~valid_N, 0.0).sum() / valid_N.sum().clamp(min=1)
