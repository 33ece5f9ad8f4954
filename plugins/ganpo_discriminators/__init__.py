"""Critics of latents, one file each. A new one is a file here and two lines below."""

from __future__ import annotations

from ganpo_core import Discriminator, hookimpl


@hookimpl
def ganpo_discriminators() -> dict[str, type[Discriminator]]:
    """The discriminators by the name that `discriminator: {use: …}` takes."""
    # Imported here: naming the discriminators must not import torch.
    from ganpo_discriminators.linear import Linear
    from ganpo_discriminators.mlp import MLP
    from ganpo_discriminators.transformer import Transformer

    return {
        "linear": Linear,
        "mlp": MLP,
        "transformer": Transformer,
    }
