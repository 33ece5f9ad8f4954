"""What separates the policy's latents from the reference's, one file each. A new one is a file here and two lines below."""

from __future__ import annotations

from ganpo_core import Divergence, hookimpl


@hookimpl
def ganpo_divergences() -> dict[str, type[Divergence]]:
    """The divergences by the name that `divergence: {use: …}` takes."""
    # Imported here: naming the divergences must not import torch.
    from ganpo_divergences.jsd import JSD
    from ganpo_divergences.mse import MSE
    from ganpo_divergences.ragan import RaGAN
    from ganpo_divergences.wasserstein import Wasserstein

    return {
        "jsd": JSD,
        "mse": MSE,
        "ragan": RaGAN,
        "wasserstein": Wasserstein,
    }
