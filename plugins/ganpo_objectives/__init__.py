"""Preference losses, one file per family. A new one is a class here or there, and two lines below."""

from __future__ import annotations

from ganpo_core import Objective, hookimpl


@hookimpl
def ganpo_objectives() -> dict[str, type[Objective]]:
    """The losses by the name that `objective: {use: …}` takes."""
    # Imported here: naming the losses must not import torch.
    from ganpo_objectives.calibrated import CalDPO, DPOPositive
    from ganpo_objectives.dpo import CDPO, DPO, RobustDPO
    from ganpo_objectives.gpo import EXO, GPO, IPO, DiscoPOP, Hinge
    from ganpo_objectives.lengths import LDDPO, RDPO, DPONorm
    from ganpo_objectives.likelihood import CPO, ORPO, RPO, SFT, SLiC
    from ganpo_objectives.links import FDPO, ChiPO
    from ganpo_objectives.responses import BCO, KTO, NCA, SPPO, APODown, APOZero
    from ganpo_objectives.self_play import RSPO, SPIN, AlphaSPIN, FictitiousSPIN
    from ganpo_objectives.simpo import AlphaPO, SimPO
    from ganpo_objectives.token_level import BMC, TDPO1, TDPO2, WPO, MallowsDPO
    from ganpo_objectives.transport import AOT, AOTUnpaired
    from ganpo_objectives.weighted import Weighted

    return {
        # pairs, against a reference
        "dpo": DPO,
        "cdpo": CDPO,
        "robust": RobustDPO,
        "ipo": IPO,
        "hinge": Hinge,
        "gpo": GPO,
        "exo": EXO,
        "discopop": DiscoPOP,
        "f_dpo": FDPO,
        "chi_po": ChiPO,
        "dpo_norm": DPONorm,
        "r_dpo": RDPO,
        "ld_dpo": LDDPO,
        "rpo": RPO,
        "dpo_positive": DPOPositive,
        "cal_dpo": CalDPO,
        "aot": AOT,
        "aot_unpaired": AOTUnpaired,
        # pairs, without a reference
        "simpo": SimPO,
        "alpha_po": AlphaPO,
        "cpo": CPO,
        "orpo": ORPO,
        "slic": SLiC,
        "sft": SFT,
        # single responses
        "kto": KTO,
        "bco": BCO,
        "nca": NCA,
        "apo_zero": APOZero,
        "apo_down": APODown,
        "sppo": SPPO,
        # tokens and next-token distributions
        "tdpo1": TDPO1,
        "tdpo2": TDPO2,
        "wpo": WPO,
        "mallows_dpo": MallowsDPO,
        "bmc": BMC,
        # self-play
        "spin": SPIN,
        "alpha_spin": AlphaSPIN,
        "fictitious_spin": FictitiousSPIN,
        "rspo": RSPO,
        # sums
        "weighted": Weighted,
    }
