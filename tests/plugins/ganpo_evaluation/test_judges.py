"""Every judge keeps the contract; each one's score is the number it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from ganpo_evaluation.function import Function
from ganpo_evaluation.reward_model import RewardModel

import ganpo_core
from ganpo_core import ConfigError, GanpoError, Judge, PluginError, Prompt, Scorer
from ganpo_core.testing import check_judge

SAMPLES: list[tuple[Prompt, str]] = [
    ("w0 w1", "w2 w3 w4"),
    ("w5", "w6"),
    ([{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w7"}, {"role": "user", "content": "w2"}], "w8 w9"),
    ("w3 w4 w5 w6 w7", "w1"),
]


def test_a_reward_model_keeps_the_contract(reward_folder: Path) -> None:
    check_judge(RewardModel(str(reward_folder), batch_size=3), SAMPLES)


def test_a_reward_is_the_models_logit_of_the_templates_text(reward_folder: Path) -> None:
    """The same tokens through the model by hand: user 3, w0 w1 = 5 6, model 4, w2 w3 w4 = 7 8 9."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(reward_folder).eval()
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([[3, 5, 6, 4, 7, 8, 9]])).logits.item()
    found = RewardModel(str(reward_folder)).build()(["w0 w1"], ["w2 w3 w4"])
    assert found == pytest.approx([wanted], abs=1e-6)


def test_what_is_too_long_loses_its_beginning(reward_folder: Path) -> None:
    short = RewardModel(str(reward_folder), max_length=4).build()
    assert short(["w9 w9 w9"], ["w2 w3 w4"]) == pytest.approx(short(["w1"], ["w2 w3 w4"]))


def test_a_model_of_two_labels_is_no_reward_model(reward_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(
        reward_folder, num_labels=2, ignore_mismatched_sizes=True
    ).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(reward_folder).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"judge\.path: '.*' has 2 labels; a reward model has one"):
        RewardModel(str(tmp_path)).build()
    with pytest.raises(ConfigError, match=r"judge\.path: no reward model in '/nowhere'"):
        RewardModel("/nowhere").build()


def test_a_function_of_the_users_file_judges(tmp_path: Path) -> None:
    path = tmp_path / "my_judge.py"
    path.write_text("def score(prompt, response):\n    return len(response)\n\ndef wrong(prompt, response):\n    return 'x'\n")
    check_judge(Function(str(path)))
    assert Function(str(path)).build()(["a", "b"], ["four", "sevenxx"]) == [4.0, 7.0]
    with pytest.raises(PluginError, match=r"my_judge\.py:wrong returned 'x', not a number"):
        Function(str(path), "wrong").build()(["a"], ["b"])
    with pytest.raises(ConfigError, match="has no function 'scor'"):
        Function(str(path), "scor").build()
    with pytest.raises(ConfigError, match="is not a file"):
        Function(str(tmp_path / "no.py")).build()


def test_a_judge_is_made_by_name_and_its_options_are_checked() -> None:
    made = ganpo_core.component("judge", "reward_model", path="x", batch_size=2)
    assert made == RewardModel("x", batch_size=2)
    with pytest.raises(ConfigError, match=r"judge\.batchsize: unknown option\. Did you mean 'batch_size'\?"):
        ganpo_core.component("judge", "reward_model", path="x", batchsize=2)


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from ganpo_evaluation.alpaca import load_package

    monkeypatch.setitem(sys.modules, "alpaca_eval", None)
    with pytest.raises(GanpoError, match=r"needs the package of that name .* `pip install 'ganpo\[alpaca\]'`"):
        load_package()


@dataclass(frozen=True)
class Rank(Judge):
    """Scores by place in the call: depends on the others."""

    def build(self) -> Scorer:
        """Places."""
        return lambda prompts, responses: [float(index) for index in range(len(responses))]


@dataclass(frozen=True)
class Short(Judge):
    """One score too few."""

    def build(self) -> Scorer:
        """Too few."""
        return lambda prompts, responses: [0.0] * (len(responses) - 1)


@dataclass(frozen=True)
class Nan(Judge):
    """No number."""

    def build(self) -> Scorer:
        """Not finite."""
        return lambda prompts, responses: [float("nan")] * len(responses)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (Rank(), "scores that do not depend on the order"),
        (Short(), "a score for each of 3 pairs; found 2"),
        (Nan(), "finite numbers as scores; found nan"),
    ],
)
def test_a_broken_promise_is_found(judge: Judge, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_judge(judge)


def test_scores_see_prompts_as_they_were_given(tmp_path: Path) -> None:
    path = tmp_path / "kind.py"
    path.write_text("def score(prompt, response):\n    return 1.0 if isinstance(prompt, list) else 0.0\n")
    prompts: Sequence[Prompt] = [[{"role": "user", "content": "hi"}], "hi"]
    assert Function(str(path)).build()(prompts, ["a", "b"]) == [1.0, 0.0]
