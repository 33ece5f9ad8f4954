"""Preference losses, one file each. A new one is a file here and two lines below."""

from __future__ import annotations

from ganpo_core import Objective, hookimpl


@hookimpl
def ganpo_objectives() -> dict[str, type[Objective]]:
    """The losses by the name that `objective: {use: …}` takes."""
    # Imported here: naming the losses must not import torch.
    from ganpo_objectives.dpo import DPO
    from ganpo_objectives.simpo import SimPO

    return {
        "dpo": DPO,
        "simpo": SimPO,
    }
