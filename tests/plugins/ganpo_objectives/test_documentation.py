"""Each objective says what it is, where it comes from, and when to use it; other people's names lead to it."""

from __future__ import annotations

import pytest
from ganpo_objectives import ganpo_objectives
from objective_samples import RECORD, objective

import ganpo_core
from ganpo_core import ConfigError
from ganpo_core.cli.describe import describe
from ganpo_core.docstrings import needs_of, read_docstring
from ganpo_core.plugins import load_plugins
from ganpo_core.schema import describe_options

TRL_NAMES = {
    "sigmoid": "dpo", "exo_pair": "exo", "nca_pair": "nca", "sppo_hard": "sppo", "sigmoid_norm": "dpo_norm",
    "apo_zero_unpaired": "apo_zero",
}
SAME_IN_TRL = (
    "hinge", "ipo", "robust", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "simpo", "cpo", "orpo", "kto",
)


@pytest.mark.parametrize("name", sorted(ganpo_objectives()))
def test_every_objective_is_documented_in_full(name: str) -> None:
    text = read_docstring(ganpo_objectives()[name])
    assert all((text.summary, text.formula, text.source, text.trl, text.when)), text
    assert all(option.text for option in describe_options(ganpo_objectives()[name]))


@pytest.mark.parametrize(("theirs", "ours"), TRL_NAMES.items())
def test_a_name_of_trl_is_answered_with_the_one_here(theirs: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=f"objective '{theirs}' is not known. TRL calls '{ours}' so: write `use: {ours}`"):
        ganpo_core.component("objective", theirs)


def test_a_name_that_needs_options_to_be_the_same_is_answered_with_them() -> None:
    with pytest.raises(ConfigError, match=r"TRL calls 'bco' so: write `{use: bco, delta: zero}`"):
        ganpo_core.component("objective", "bco_pair")
    with pytest.raises(ConfigError, match=r"arXiv 2404.19733 calls 'rpo' so: write `{use: rpo, beta: 0.1, eta: 1.0, "):
        ganpo_core.component("objective", "irpo")


def test_every_loss_of_trl_is_known_by_its_name_there_or_answered() -> None:
    registry = load_plugins().registry("objective")
    assert set(SAME_IN_TRL) <= set(registry)
    trainers = (RECORD["batches"][0]["losses"][trainer] for trainer in ("dpo", "kto"))
    losses = {name.removesuffix("_smoothed") for trainer in trainers for name in trainer}
    options = {"ld", "wpo", "rpo", "mpo", "kto_weighted", *(name for name in losses if name.startswith("f_"))}
    assert losses - options <= {*SAME_IN_TRL, *TRL_NAMES, "bco_pair"}


def test_no_other_name_is_taken_or_given_twice() -> None:
    registry = load_plugins().registry("objective")
    others = [other for entry in registry.values() for other in entry.component.known_as]
    assert len(others) == len(set(others)) and not set(others) & set(registry)
    assert {*TRL_NAMES, "bco_pair"} <= set(others)


def test_describe_prints_formula_source_defaults_needs_and_other_names(capsys: pytest.CaptureFixture[str]) -> None:
    describe("objective", "exo")
    out = capsys.readouterr().out
    for piece in (
        "q = sigma(margin)", "Source: arXiv 2402.00856", 'TRL: `loss_type="exo_pair"`', "Reward per nat of log-ratio",
        "label_smoothing: number > 0 < 0.5 = 0.001", "Needs       a reference; pairs", "Also called 'exo_pair' (TRL)",
    ):
        assert piece in out
    describe("objective", "bco")
    assert "Also called 'bco_pair' (TRL, with delta: zero)" in capsys.readouterr().out


def test_needs_are_in_words() -> None:
    assert list(needs_of(objective("wpo"))) == ["a reference", "per token: log_sum_sq_probs", "pairs"]
    assert list(needs_of(objective("simpo"))) == ["no reference", "pairs"]
    assert list(needs_of(objective("sppo", preference="soft"))) == [
        "a reference", "the column `preference`", "pairs, or single responses with a label",
    ]
    assert list(needs_of(objective("aot"))) == ["a reference", "the micro-batch as a whole", "pairs"]
