"""Judges of responses, generation, and the commands behind the paper's tables and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganpo_core import Judge, hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def ganpo_judges() -> dict[str, type[Judge]]:
    """Each judge and its class; their libraries are imported when one is built."""
    from ganpo_evaluation.alpaca import AlpacaEval
    from ganpo_evaluation.critic import CriticJudge
    from ganpo_evaluation.function import Function
    from ganpo_evaluation.ifeval import IFEval
    from ganpo_evaluation.implicit_reward import ImplicitReward
    from ganpo_evaluation.reward_model import RewardModel

    return {
        "alpaca_eval": AlpacaEval,
        "critic": CriticJudge,
        "function": Function,
        "ifeval": IFEval,
        "implicit_reward": ImplicitReward,
        "reward_model": RewardModel,
    }


@hookimpl
def ganpo_commands() -> dict[str, typer.Typer]:
    """`ganpo evaluate …`, `ganpo generate`, `ganpo score` and `ganpo ablate`."""
    from ganpo_evaluation.ablation import app as ablate
    from ganpo_evaluation.commands import evaluate
    from ganpo_evaluation.generation import app as generate
    from ganpo_evaluation.scoring import app as score

    return {"ablate": ablate, "evaluate": evaluate, "generate": generate, "score": score}
