"""What separates the policy's latents from the reference's, one file each. A new one is a file here and two lines below."""

from __future__ import annotations

from ganpo_core import Divergence, hookimpl


@hookimpl
def ganpo_divergences() -> dict[str, type[Divergence]]:
    """The divergences by the name that `divergence: {use: …}` takes."""
    # Imported here: naming the divergences must not import torch.
    from ganpo_divergences.coral import Coral
    from ganpo_divergences.cosine import Cosine
    from ganpo_divergences.energy import Energy
    from ganpo_divergences.f_gan import FGAN
    from ganpo_divergences.frechet import Frechet
    from ganpo_divergences.hinge import Hinge
    from ganpo_divergences.jsd import JSD
    from ganpo_divergences.lsgan import LSGAN
    from ganpo_divergences.mean import Mean
    from ganpo_divergences.mmd import MMD
    from ganpo_divergences.mse import MSE
    from ganpo_divergences.ra_hinge import RaHinge
    from ganpo_divergences.ra_ls import RaLS
    from ganpo_divergences.ragan import RaGAN
    from ganpo_divergences.rpgan import RpGAN
    from ganpo_divergences.sliced_wasserstein import SlicedWasserstein
    from ganpo_divergences.wasserstein import Wasserstein

    return {
        "coral": Coral,
        "cosine": Cosine,
        "energy": Energy,
        "f_gan": FGAN,
        "frechet": Frechet,
        "hinge": Hinge,
        "jsd": JSD,
        "lsgan": LSGAN,
        "mean": Mean,
        "mmd": MMD,
        "mse": MSE,
        "ra_hinge": RaHinge,
        "ra_ls": RaLS,
        "ragan": RaGAN,
        "rpgan": RpGAN,
        "sliced_wasserstein": SlicedWasserstein,
        "wasserstein": Wasserstein,
    }
