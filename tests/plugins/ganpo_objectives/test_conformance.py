"""Every built-in objective keeps its contract; a new one is found here by itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
from ganpo_objectives import ganpo_objectives
from ganpo_objectives.dpo import DPO
from ganpo_objectives.simpo import SimPO

from ganpo_core import Objective
from ganpo_core.testing import check_objective

VARIANTS = (DPO(beta=2.0, label_smoothing=0.2), SimPO(beta=10.0, gamma_ratio=0.0))


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
