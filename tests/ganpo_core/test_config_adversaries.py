"""Adversaries in a run file: a list of them, the four sections at the top level, and mistakes in either."""

from __future__ import annotations

import pytest
from run_files import DIRECT, GAME, Problems, Write

from ganpo_core.config import load_run


def test_a_list_of_adversaries_keeps_names_weights_and_order(write_run: Write) -> None:
    items = [
        {"name": "game", "weight": 0.5, **DIRECT, "divergence": {"use": "ragan"}, "discriminator": {"use": "mlp"}},
        {"name": "pull", **DIRECT, "adversary": {"weight": 0.25}},
    ]
    config = load_run(write_run(adversaries=items))
    assert [(plan.name, plan.config.weight) for plan in config.adversaries] == [("game", 0.5), ("pull", 0.25)]


def test_the_four_sections_are_the_list_of_one(write_run: Write) -> None:
    config = load_run(write_run(GAME))
    assert [(plan.name, plan.config.weight) for plan in config.adversaries] == [("latent", 0.5)]


def test_without_the_four_sections_a_run_is_plain(write_run: Write) -> None:
    assert load_run(write_run()).adversaries == ()
    assert load_run(write_run(adversaries=[])).adversaries == ()


def test_the_list_and_a_section_at_the_top_level_exclude_each_other(problems: Problems) -> None:
    found = problems(adversaries=[{"name": "one", **DIRECT}], latents={"use": "pooled"})
    assert found == ["run.yaml:8: adversaries: give either the list or `latents:` at the top level"]


def test_mistakes_in_a_list_are_named_by_item_and_line(problems: Problems) -> None:
    more = """\
adversaries:
  - name: one
    weight: -1
    latents: {use: hidden_state}
    divergence: {use: mse}
  - name: one
    latnets: {use: hidden_state}
    divergence: {use: mse}
"""
    assert problems(more) == [
        "run.yaml:7: adversaries.0.adversary.weight: must be greater than or equal to 0, got -1",
        "run.yaml:10: adversaries.1.name: expected a word that no other adversary has, got 'one'",
        "run.yaml:11: adversaries.1.latnets: unknown option. Did you mean 'latents'?",
        "run.yaml:12: adversaries.1.latents: required by the divergence, and missing",
    ]


def test_a_weight_given_twice_is_refused(problems: Problems) -> None:
    found = problems(adversaries=[{"name": "one", "weight": 1, **DIRECT, "adversary": {"weight": 2}}])
    assert found == ["run.yaml:10: adversaries.0.weight: given here and under adversary; keep one"]


@pytest.mark.parametrize("value", ["5", "{name: one}", "[5]", "null"])
def test_adversaries_that_are_no_list_of_sections_are_refused(problems: Problems, value: str) -> None:
    found = problems(f"adversaries: {value}\n")
    assert found == ["run.yaml:5: adversaries: expected a list of sections, each with a `name`"]


@pytest.mark.parametrize("name", ["", "two words", "a/b", "7", None])
def test_an_adversarys_name_is_a_word(problems: Problems, name: str | None) -> None:
    (message,) = problems(adversaries=[{"name": name, **DIRECT}])
    assert f"adversaries.0.name: expected a word that no other adversary has, got {name!r}" in message


def test_an_adversary_of_the_wrong_shape_is_one_mistake(problems: Problems) -> None:
    found = problems(adversaries=[{"name": "one", "weight": 1, **DIRECT, "adversary": "strong"}])
    assert found == [
        "run.yaml:15: adversaries.0.adversary: expected a section of `key: value` lines, got 'strong'"
    ]


def test_weight_zero_leaves_the_adversary_out_with_a_note(write_run: Write) -> None:
    config = load_run(write_run(GAME), ["adversary.weight=0"])
    assert config.adversaries == ()
    assert config.notes == (
        "adversary 'latent': weight is 0, so it is not built: this is plain preference optimisation",
    )


def test_a_discriminator_beside_a_direct_distance_is_a_note_not_an_error(write_run: Write) -> None:
    config = load_run(write_run(**DIRECT, discriminator={"use": "mlp"}))
    assert len(config.adversaries) == 1
    assert config.notes == ("adversary 'latent': a direct distance uses no discriminator; that section is ignored",)


def test_form_is_given_only_where_the_file_says_so(write_run: Write) -> None:
    assert not load_run(write_run(GAME)).adversaries[0].form_is_given
    assert load_run(write_run(GAME), ["adversary.form=minimax"]).adversaries[0].form_is_given
