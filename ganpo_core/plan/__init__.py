"""What a run will hold in memory and compute, from configurations alone: no weight is loaded."""

from ganpo_core.plan.critics import CriticFlops, count_parameters, critic_flops_per_token, critic_overhead
from ganpo_core.plan.lengths import Lengths
from ganpo_core.plan.run import Plan, plan_run
from ganpo_core.plan.table import plan_table

__all__ = [
    "CriticFlops",
    "Lengths",
    "Plan",
    "count_parameters",
    "critic_flops_per_token",
    "critic_overhead",
    "plan_run",
    "plan_table",
]
