"""Every built-in objective keeps its contract; a new one is found here by itself."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
from ganpo_objectives import ganpo_objectives
from ganpo_objectives.dpo import DPO
from ganpo_objectives.gpo import GPO, IPO
from ganpo_objectives.likelihood import RPO, SFT
from ganpo_objectives.links import FDPO, ChiPO
from ganpo_objectives.responses import BCO, SPPO
from ganpo_objectives.self_play import RSPO
from ganpo_objectives.simpo import AlphaPO, SimPO
from ganpo_objectives.stages import Averaging, Surrogate
from ganpo_objectives.token_level import MallowsDPO
from ganpo_objectives.transport import AOT
from ganpo_objectives.weighted import Weighted

from ganpo_core import Objective
from ganpo_core.testing import check_objective

VARIANTS = (
    DPO(beta=2.0, label_smoothing=0.2),
    SimPO(beta=10.0, gamma_ratio=0.0),
    *(GPO(surrogate=surrogate) for surrogate in get_args(Surrogate)),
    *(FDPO(divergence=divergence, alpha=0.3) for divergence in ("forward_kl", "js", "alpha")),
    IPO(reduction="sum"),
    ChiPO(clip=1.0),
    AlphaPO(alpha=-0.5),
    *(RPO(sft_norm=averaging) for averaging in get_args(Averaging)),
    SFT(sft_norm="seq_mean"),
    SPPO(preference="soft"),
    BCO(delta="zero"),
    *(RSPO(regularizer=kind) for kind in ("reverse_kl", "chi_squared", "forward_and_reverse")),
    MallowsDPO(link_function="squared"),
    AOT(label_smoothing=0.2),
    Weighted(objectives=({"use": "tdpo2"}, {"use": "sppo", "preference": "soft", "weight": 1e-6})),
)


@pytest.mark.parametrize("name", sorted(ganpo_objectives()))
def test_objective_keeps_its_contract(name: str) -> None:
    check_objective(ganpo_objectives()[name]())


@pytest.mark.parametrize("objective", VARIANTS, ids=repr)
def test_objective_keeps_its_contract_with_other_options(objective: Objective) -> None:
    check_objective(objective)


def test_built_in_plugins_import_without_torch() -> None:
    plugins = "ganpo_objectives, ganpo_latents, ganpo_divergences, ganpo_discriminators"
    code = f"import sys, {plugins}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
