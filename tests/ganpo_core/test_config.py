"""Run files: every mistake is named, with its line and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_files import GAME, Problems, Write

import ganpo_core
from ganpo_core.config import load_run
from ganpo_core.errors import ConfigError
from ganpo_core.plugins import load_plugins

OBJECTIVES = ", ".join(load_plugins().registry("objective"))


def test_unknown_component_names_the_nearest_and_all_that_are_known(problems: Problems) -> None:
    (message,) = problems(objective={"use": "simp"})
    assert message.startswith("run.yaml:6: objective 'simp' is not known. Did you mean 'simpo'? Known: alpha_po, ")


def test_unknown_option_names_its_path_and_a_suggestion(problems: Problems) -> None:
    found = problems(objective={"use": "dpo", "betta": 0.1})
    assert found == ["run.yaml:7: objective.betta: unknown option. Did you mean 'beta'?"]


def test_unknown_option_of_a_nested_section_is_compared_with_that_section(problems: Problems) -> None:
    assert problems(model={"path": "model", "lora": {"alhpa": 8}}) == [
        "run.yaml:4: model.lora.alhpa: unknown option. Did you mean 'alpha'?"
    ]
    assert problems(data={"sources": [{"path": "pairs.jsonl", "wieght": 8}]}) == [
        "run.yaml:6: data.sources.0.wieght: unknown option. Did you mean 'weight'?"
    ]


def test_incompatible_parts_say_why(problems: Problems) -> None:
    more = """\
latents: {use: hidden_state}
discriminator: {use: transformer}
divergence: {use: wasserstein, constraint: spectral_norm}
"""
    assert problems(more) == [
        "run.yaml:7: divergence 'wasserstein' with constraint: spectral_norm needs a Lipschitz discriminator; "
        "'transformer' is not"
    ]


def test_wasserstein_with_spectral_norm_takes_a_critic_that_is_lipschitz(write_run: Write) -> None:
    more = """\
latents: {use: hidden_state}
discriminator: {use: mlp, spectral_norm: true}
divergence: {use: wasserstein, constraint: spectral_norm}
"""
    assert len(load_run(write_run(more)).adversaries) == 1


def test_wasserstein_with_a_cross_term_says_that_it_cancels(problems: Problems) -> None:
    more = GAME.replace("ragan", "wasserstein") + "  \n"
    found = problems(more, overrides=["adversary.cross_weight=1"])
    assert found == [
        "command line: divergence 'wasserstein' with cross_weight 1: the policy's scores cancel out of its critic loss "
        "when a cross term is added; set cross_weight: 0"
    ]


def test_a_form_that_the_divergence_lacks_lists_those_it_has(problems: Problems) -> None:
    (message,) = problems(GAME.replace("ragan", "jsd").replace("weight: 0.5", "form: full"))
    assert message.startswith("run.yaml:8: divergence 'jsd' has no form 'full'; it offers: minimax, non_saturating, ")


def test_an_unknown_form_and_a_misspelt_preset_list_what_there_is(problems: Problems) -> None:
    (message,) = problems(GAME.replace("weight: 0.5", "form: minmax"))
    assert message.startswith("run.yaml:8: adversary.form: must be 'minimax', 'non_saturating', 'full'")
    assert message.endswith("got 'minmax'")
    (message,) = problems(GAME.replace("weight: 0.5", "preset: papre, learning_rate: 1e-5"))
    assert message.startswith("run.yaml:8: adversary.preset: must be 'ganpo', 'paper'")
    assert message.endswith("got 'papre'")


def test_a_misspelt_preset_is_one_mistake(problems: Problems) -> None:
    assert len(problems(GAME.replace("weight: 0.5", "preset: papre"))) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.beta='0.1'", "objective.beta: expected a number, got '0.1'"),
        ("objective.beta=true", "objective.beta: expected a number, got True"),
        ("objective.beta=[1]", "objective.beta: expected a number, got [1]"),
        ("objective.beta=null", "objective.beta: expected a number, got None"),
        ("objective.beta=-1", "objective.beta: must be greater than 0, got -1"),
        ("objective.beta=1e999", "objective.beta: must be a finite number, got inf"),
        ("training.max_steps=1.5", "training.max_steps: expected a whole number, got 1.5"),
        ("training.max_steps=0", "training.max_steps: must be greater than 0, got 0"),
        ("training.warmup_ratio=2", "training.warmup_ratio: must be less than or equal to 1, got 2"),
        ("training.gradient_checkpointing=1", "training.gradient_checkpointing: expected true or false, got 1"),
        ("training.gradient_checkpointing=no", "training.gradient_checkpointing: expected true or false, got 'no'"),
        ("training.report_to=wandb", "training.report_to: expected a list, got 'wandb'"),
        ("data.max_length=1", "data.max_length: must be greater than 1, got 1"),
        ("model.lora=8", "model.lora: expected a section of `key: value` lines, got 8"),
        ("model=gemma", "model: expected a section of `key: value` lines, got 'gemma'"),
        ("training=[1]", "training: expected a section of `key: value` lines, got [1]"),
        ("seed=a", "seed: expected a whole number, got 'a'"),
        ("seed=true", "seed: expected a whole number, got True"),
        ("seed=-1", "seed: must be greater than or equal to 0, got -1"),
        ("output_dir=3", "output_dir: expected text, got 3"),
        ("output_dir=''", "output_dir: must not be empty"),
        ("objective.use=3", f"objective.use: expected a name, got 3; known: {OBJECTIVES}"),
        ("plugins=acme", "plugins: expected a list of names or ./files.py, got 'acme'"),
        ("plugins=[1]", "plugins: expected a list of names or ./files.py, got [1]"),
    ],
)
def test_a_wrong_value_says_what_was_expected_and_what_was_given(
    problems: Problems, override: str, message: str
) -> None:
    (found,) = problems(overrides=[override])
    assert found.startswith(f"command line: {message}")


def test_unknown_section_lists_the_sections(problems: Problems) -> None:
    (message,) = problems("trainng: {max_steps: 3}\n")
    assert message.startswith("run.yaml:5: trainng: unknown section. Did you mean 'training'? Known: plugins, seed, model, ")


def test_a_key_given_twice_names_both_lines(problems: Problems) -> None:
    assert problems("seed: 1\nseed: 2\n") == ["run.yaml:6: seed: given twice, first on line 5; remove one"]


def test_missing_sections_are_named(problems: Problems) -> None:
    assert problems(whole="seed: 0\n") == [
        "run.yaml: output_dir: required, and missing",
        "run.yaml: model: required section is missing",
        "run.yaml: data: required section is missing",
        "run.yaml: objective: required section is missing",
    ]


def test_a_missing_use_lists_the_names(problems: Problems) -> None:
    missing = f"run.yaml:5: objective.use: required, and missing; known: {OBJECTIVES}"
    assert problems(objective={"beta": 0.1}) == [missing]
    assert problems(objective={"ues": "dpo"}) == ["run.yaml:6: objective.ues: unknown option. Did you mean 'use'?"]


def test_missing_data_file_and_model_folder_say_where_they_were_sought(problems: Problems, run_folder: Path) -> None:
    found = problems(model={"path": "./nope"}, data={"path": "nope.jsonl"})
    assert found == [
        f"run.yaml:2: model.path: no model folder at './nope' ({run_folder}/nope); paths are relative to the run file",
        f"run.yaml:4: data.path: no data file or folder at 'nope.jsonl' ({run_folder}/nope.jsonl); paths are relative "
        "to the run file",
    ]


def test_a_critic_divergence_without_latents_or_discriminator_is_an_error(problems: Problems) -> None:
    assert problems("discriminator: {use: mlp}\ndivergence: {use: ragan}\n") == [
        "run.yaml:5: latents: required by the divergence, and missing"
    ]
    (message,) = problems("latents: {use: hidden_state}\ndivergence: {use: ragan}\n")
    assert message.startswith("run.yaml:6: discriminator: required by divergence 'ragan', and missing; a direct distance (")
    assert "mse" in message
    assert problems("latents: {use: hidden_state}\n") == [
        "run.yaml:5: divergence: required, and missing; name one with `use:`"
    ]
    assert problems("adversary: {weight: 0.1}\n") == [
        "run.yaml:5: divergence: required, and missing; name one with `use:`",
        "run.yaml:5: latents: required by the divergence, and missing",
    ]


def test_all_mistakes_of_a_file_are_reported_together_each_with_its_line(problems: Problems, run_folder: Path) -> None:
    whole = """\
sede: 1
model: {path: ./nope, dtype: float16}
data:
  path: pairs.jsonl
  max_lenght: 12
objective: {use: dpo, beta: 0, label_smoothing: -1}
latents: {use: hiden_state}
discriminator: {use: mlp, hidden_dim: 1.5}
divergence: {use: ragan}
adversary: {weight: -1, learning_rate: 1e-4, learning_rate_ratio: 1}
training:
  max_steps: many
output_dir: 3
"""
    found = problems(whole=whole)
    lines = [message.partition(": ")[0] for message in found]
    assert sorted(lines, key=lambda line: int(line.rpartition(":")[2])) == [
        f"run.yaml:{line}" for line in (1, 2, 5, 6, 6, 7, 8, 10, 12, 13)
    ]
    assert all("\n" not in message for message in found)


def test_bad_overrides_are_reported_together(problems: Problems) -> None:
    found = problems(overrides=["output_dir.x=1", "nonsense", "objective.beta=["])
    assert [message.partition(":")[0] for message in found] == ["command line"] * 3


def test_train_reports_mistakes_before_anything_is_loaded(write_run: Write) -> None:
    with pytest.raises(ConfigError, match="objective 'nope' is not known"):
        ganpo_core.train(write_run(objective={"use": "nope"}))
