"""Objectives by strangers: the shortest one trains; each mistake is answered with where, what and what next."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ganpo_core
from ganpo_core import DataError, GanpoError, PluginError, TrainingError
from ganpo_core.cli.check import check

MakeRun = Callable[..., dict[str, Any]]

SHORTEST = """\
from dataclasses import dataclass
import torch.nn.functional as F
from ganpo_core import Objective, PairLoss, hookimpl
@dataclass(frozen=True)
class Mine(Objective):
    \"\"\"softplus(-beta * rho).\"\"\"
    beta: float = 0.1
    \"\"\"Reward per nat.\"\"\"
    def loss(self, policy, reference):
        good = self.beta * (policy.chosen.total - reference.chosen.total)
        bad = self.beta * (policy.rejected.total - reference.rejected.total)
        return PairLoss(F.softplus(bad - good), good.detach(), bad.detach())
@hookimpl
def ganpo_objectives():
    return {"mine": Mine}
"""
RETURN = "return PairLoss(F.softplus(bad - good), good.detach(), bad.detach())"
FIELD = '    beta: float = 0.1\n    """Reward per nat."""\n'


def returns(code: str) -> str:
    return SHORTEST.replace(RETURN, code)


def declares(code: str, values: str = "") -> str:
    method = f"    def batch_values(self, policy, reference):\n        return {values}\n" if values else ""
    return SHORTEST.replace(FIELD, f"{FIELD}    {code}\n{method}")


def run_of(text: str, tiny_run: MakeRun, tmp_path: Path, **sections: Any) -> dict[str, Any]:
    path = tmp_path / "mine.py"
    path.write_text(text)
    run_file = tiny_run(plugins=[str(path)], objective={"use": "mine"}, **sections)
    run_file["training"] |= {"max_steps": 3, "gradient_accumulation_steps": 2, "logging_steps": 1}
    return run_file


@pytest.mark.parametrize("divergence", [None, "mse"])
def test_fifteen_lines_add_an_objective(divergence: str | None, tiny_run: MakeRun, tmp_path: Path) -> None:
    assert len(SHORTEST.splitlines()) == 15
    sections = {"latents": {"use": "hidden_state"}, "divergence": {"use": divergence}} if divergence else {}
    folder = ganpo_core.train(run_of(SHORTEST, tiny_run, tmp_path, **sections))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[0]["objective_loss"] == pytest.approx(math.log(2), rel=1e-4)


@pytest.mark.parametrize(
    ("declared", "answer"),
    [
        (declares("token_statistics = frozenset({'entropy'})"), "token_statistics names entropy, which nothing computes; known:"),
        (declares("token_statistics = 'reference_kl'"), "token_statistics is 'reference_kl'; write a set, such as frozenset"),
        (declares("token_statistics = frozenset({'reference_kl'}); needs_reference = False"),
         "token_statistics names reference_kl, which needs a reference; needs_reference is False"),
        (declares("needs = frozenset({'length'})"), "needs names length, which nothing computes; known: token_ids, preference"),
        (declares("needs = ['token_ids']"), "needs is ['token_ids']; write a set"),
        (declares("batch_statistics = {'x': 'mean'}"), "batch_statistics has 'x': 'mean'; kinds: lengths, mismatched, "),
        (declares("batch_statistics = {'x'}"), "batch_statistics is {'x'}; write a mapping of names to kinds"),
        (SHORTEST.replace("def loss(", "def losses("), "loss is missing: define `loss(self, policy, reference)`"),
    ],
)
def test_a_declaration_that_nothing_can_give_is_found_without_weights(
    declared: str, answer: str, tiny_run: MakeRun, tmp_path: Path
) -> None:
    import yaml

    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_of(declared, tiny_run, tmp_path)))
    with pytest.raises(PluginError) as caught:
        check(path)
    assert f"Mine.{answer}" in str(caught.value)
    with pytest.raises(PluginError):
        ganpo_core.train(path)


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        (returns("return PairLoss(F.softplus(bad - good).mean(), good, bad)"), PluginError,
         "Mine.loss returned a tensor of shape () as per_pair; expected a PairLoss with one value for each of 4 pairs"),
        (returns("return F.softplus(bad - good)"), PluginError, "Mine.loss returned a tensor of shape (4,); expected a PairLoss"),
        (returns("F.softplus(bad - good)"), PluginError, "Mine.loss returned NoneType; expected a PairLoss"),
        (returns("return PairLoss(F.softplus(bad - good), good.mean(), bad)"), PluginError, "of shape () as chosen_reward;"),
        (returns("return PairLoss(F.softplus(bad - good), None, None)"), PluginError, "returned NoneType as chosen_reward;"),
        (returns("return PairLoss(F.softplus(bad - good), good, bad, {'x': 3.0})"), PluginError, "float as metrics['x'];"),
        (returns("return PairLoss(F.softplus(bad - good), good, bad, 3.0)"), PluginError, "returned float as metrics;"),
        (returns("return PairLoss((bad > good).float(), good, bad)"), PluginError, "values that do not depend on the policy"),
        (returns("return PairLoss(good.detach().clone().requires_grad_(), good, bad)"), PluginError, "do not depend on"),
        (returns("return PairLoss(F.softplus(good.detach().clone().requires_grad_()), good, bad)"), PluginError,
         "Mine.loss returned values that do not depend on the policy"),
        (returns("return PairLoss(F.softplus(bad - good) + 0j, good, bad)"), PluginError,
         "torch.strided of torch.complex64 on cpu as per_pair; expected real numbers, dense, on cpu"),
        (returns("return PairLoss(F.softplus(bad - good).to_sparse(), good, bad)"), PluginError, "returned torch.sparse_coo of"),
        (returns("return PairLoss(F.softplus(bad - good).to('meta'), good, bad)"), PluginError, "on meta as per_pair"),
        (returns("return PairLoss(F.softplus(bad - good), good > 0, bad)"), PluginError, "returned torch.bool as chosen_reward"),
        (returns("return PairLoss(F.softplus(bad - good), good, bad, {3: good})"), PluginError, "returned int as metrics[3];"),
        (returns("raise RuntimeError('boom')"), PluginError, "Mine.loss raised RuntimeError: boom (mine.py:12)"),
        (returns("return policy.chosen.statistics['entropy']"), PluginError,
         "raised KeyError: 'entropy' (mine.py:12). It is given what it declares (token_statistics: none; batch_statistics: no"),
        (declares("needs_reference = False"), PluginError, "Its `reference` is None, because needs_reference is False"),
        (SHORTEST.replace("policy, reference)", "policy)"), PluginError, "takes 2 positional arguments but 3 were given"),
        (returns("return PairLoss((bad - good - 1).sqrt(), good, bad)"), TrainingError,
         "step 1: loss, policy's gradient is not finite; the policy was not updated, nor was anything else"),
        (declares("needs = frozenset({'preference'})"), DataError, "needs the column `preference` in every row"),
        (declares("batch_statistics = {'x': 'running_mean'}"), PluginError, "Mine.batch_values gives nothing; batch_statistics"),
        (declares("batch_statistics = {'x': 'running_mean'}", "{'y': policy.chosen.total}"), PluginError, "gives y; batch_sta"),
        (declares("batch_statistics = {'x': 'micro_batch'}", "{'x': policy.chosen.total.mean()}"), PluginError,
         "Mine.batch_values gives a tensor of shape () as 'x'; expected a one-dimensional tensor of any length"),
        (declares("batch_statistics = {'x': 'running_mean'}", "{'x': 3.0}"), PluginError, "gives float as 'x'; expected a one"),
        (declares("batch_statistics = {'x': 'lengths'}", "{'x': policy.chosen.total}"), PluginError,
         "the batch statistic x of the kind `lengths` reads log-probabilities; it may depend on `mask` and `length` alone"),
        (declares("batch_statistics = {'x': 'mismatched'}", "1 / 0"), PluginError, "Mine.batch_values raised ZeroDivisionError"),
    ],
)
def test_a_mistake_is_answered_at_the_first_step(
    text: str, kind: type[GanpoError], answer: str, tiny_run: MakeRun, tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        ganpo_core.train(run_of(text, tiny_run, tmp_path))
    assert answer in str(caught.value)


def test_statistics_and_metrics_of_a_stranger_arrive(tiny_run: MakeRun, tmp_path: Path) -> None:
    """`x` is a mean of lengths, `policy.batch["x"]` the step's; it is logged as a metric, one for each pair."""
    text = declares("batch_statistics = {'x': 'lengths'}; token_statistics = frozenset({'log_sum_sq_probs'})",
                    "{'x': policy.rejected.length}")
    text = text.replace(RETURN, (
        "noted = {'x': policy.batch['x'].expand(len(good)), 'l': policy.rejected.length, "
        "'s': policy.chosen.statistics['log_sum_sq_probs'].sum(-1)}\n"
        "        return PairLoss(F.softplus(bad - good), good.detach(), bad.detach(), noted)"
    ))
    folder = ganpo_core.train(run_of(text, tiny_run, tmp_path))
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert line["objective/l"] > 1
    assert line["objective/x"] == pytest.approx(line["objective/l"])
    assert line["objective/s"] < 0
