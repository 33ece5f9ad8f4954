"""Critics of latents, one file each. A new one is a file here and two lines below."""

from __future__ import annotations

from ganpo_core import Discriminator, hookimpl


@hookimpl
def ganpo_discriminators() -> dict[str, type[Discriminator]]:
    """The discriminators by the name that `discriminator: {use: …}` takes."""
    # Imported here: naming the discriminators must not import torch.
    from ganpo_discriminators.attention_pool import AttentionPool
    from ganpo_discriminators.conv import Conv
    from ganpo_discriminators.gru import GRU
    from ganpo_discriminators.linear import Linear
    from ganpo_discriminators.mlp import MLP
    from ganpo_discriminators.token_mlp import TokenMLP
    from ganpo_discriminators.transformer import Transformer

    return {
        "attention_pool": AttentionPool,
        "conv": Conv,
        "gru": GRU,
        "linear": Linear,
        "mlp": MLP,
        "token_mlp": TokenMLP,
        "transformer": Transformer,
    }
