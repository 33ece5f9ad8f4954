"""Ways of reading hidden states, one file each. A new one is a file here and two lines below."""

from __future__ import annotations

from ganpo_core import LatentExtractor, hookimpl


@hookimpl
def ganpo_latent_extractors() -> dict[str, type[LatentExtractor]]:
    """The extractors by the name that `latents: {use: …}` takes."""
    # Imported here: naming the extractors must not import torch.
    from ganpo_latents.hidden_state import HiddenState
    from ganpo_latents.pooled import Pooled

    return {
        "hidden_state": HiddenState,
        "pooled": Pooled,
    }
