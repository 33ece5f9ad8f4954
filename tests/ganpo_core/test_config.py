"""Run files resolved: every mistake and its line, precedence, adversaries, and the resolved file read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import ganpo_core
from ganpo_core.config import RunConfig, load_run
from ganpo_core.config.presets import PRESETS
from ganpo_core.config.run import flatten
from ganpo_core.errors import ConfigError
from ganpo_core.plugins import load_plugins

Write = Callable[..., Path]
Problems = Callable[..., list[str]]

GAME = """\
latents: {use: hidden_state}
discriminator: {use: mlp}
divergence: {use: ragan}
adversary: {weight: 0.5}
"""
OBJECTIVES = ", ".join(load_plugins().registry("objective"))
DIRECT = {"latents": {"use": "hidden_state"}, "divergence": {"use": "mse"}}


# -- messages ------------------------------------------------------------------------------------------------------------


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


# -- precedence ----------------------------------------------------------------------------------------------------------


def adversary_of(config: RunConfig) -> Any:
    return config.adversaries[0].config


def test_a_key_in_the_file_wins_over_the_preset_and_the_preset_over_the_class(write_run: Write) -> None:
    """Paper preset: critic_scale 1 (class 0.25), dropout 0.1; means_decay is in the file; adam_beta1 in the class."""
    more = """\
latents: {use: hidden_state}
discriminator: {use: transformer, hidden_dim: 64}
divergence: {use: ragan}
adversary: {preset: paper, means_decay: 0.5}
"""
    config = load_run(write_run(more))
    adversary = adversary_of(config)
    assert (adversary.means_decay, adversary.critic_scale, adversary.adam_beta1) == (0.5, 1.0, 0.9)
    assert config.adversaries[0].discriminator.dropout == 0.1  # type: ignore[union-attr]
    assert {key: config.origins[key] for key in ORIGINS} == ORIGINS


ORIGINS = {
    "model.path": "run.yaml:1",
    "model.dtype": "default",
    "objective.use": "run.yaml:3",
    "objective.beta": "default",
    "latents.positions": "preset paper",
    "discriminator.use": "run.yaml:6",
    "discriminator.hidden_dim": "run.yaml:6",
    "discriminator.dropout": "preset paper",
    "adversary.preset": "run.yaml:8",
    "adversary.means_decay": "run.yaml:8",
    "adversary.critic_scale": "preset paper",
    "adversary.adam_beta1": "default",
    "training.learning_rate": "default",
    "seed": "default",
    "plugins": "default",
    "output_dir": "run.yaml:4",
}


def test_overrides_win_over_the_file(write_run: Write) -> None:
    path = write_run("seed: 3\n")
    config = load_run(path, ["seed=4", "objective.beta=0.3"])
    assert (config.seed, config.objective.beta) == (4, 0.3)  # type: ignore[attr-defined]
    assert config.origins["seed"] == config.origins["objective.beta"] == "command line"
    assert load_run(path, {"seed": 5}).seed == 5


def test_a_learning_rate_in_the_file_silences_the_presets_ratio(write_run: Write) -> None:
    more = GAME.replace("weight: 0.5", "preset: paper, learning_rate: 1e-4")
    adversary = adversary_of(load_run(write_run(more)))
    assert (adversary.learning_rate, adversary.learning_rate_ratio) == (1e-4, None)
    more = GAME.replace("weight: 0.5", "preset: ganpo, learning_rate_ratio: 2")
    adversary = adversary_of(load_run(write_run(more)))
    assert (adversary.learning_rate, adversary.learning_rate_ratio) == (None, 2)


def test_both_learning_rates_or_neither_is_an_error(problems: Problems) -> None:
    message = "run.yaml:8: adversary: give either `learning_rate` or `learning_rate_ratio`"
    assert problems(GAME.replace("weight: 0.5", "learning_rate: 1e-4, learning_rate_ratio: 1")) == [message]
    assert problems(GAME.replace("weight: 0.5", "learning_rate: null")) == [message]


def test_a_preset_leaves_out_options_that_the_component_does_not_have(write_run: Write) -> None:
    """`linear` has no dropout, which both presets set."""
    config = load_run(write_run(GAME.replace("use: mlp", "use: linear")))
    assert "discriminator.dropout" not in config.origins


def test_every_value_of_the_resolved_file_has_an_origin(write_run: Write) -> None:
    written: dict[str, Any] = {
        "model": {"path": "model", "lora": {"r": 4}},
        "data": {"sources": [{"path": "pairs.jsonl", "weight": 2}]},
        "adversaries": [{"name": "one", "weight": 0.1, **DIRECT}],
    }
    config = load_run(write_run(**written))
    paths = [path for path, _ in flatten(config.resolved)]
    assert {"data.sources.0.weight", "adversaries.0.name", "adversaries.0.adversary.weight"} <= set(paths)
    assert [path for path in paths if path not in config.origins] == []
    assert config.origins["model.lora.r"] == "run.yaml:4"
    assert config.origins["model.lora.alpha"] == "default"
    assert config.origins["data.sources.0.weight"] == "run.yaml:8"
    assert config.origins["data.sources.0.split"] == "default"


RUNS: list[dict[str, Any]] = [
    {},
    {**DIRECT, "adversary": {"weight": 0.3}},
    {**DIRECT, "discriminator": {"use": "mlp"}},
    *(
        {
            "latents": {"use": "hidden_state"},
            "discriminator": {"use": "transformer"},
            "divergence": {"use": "ragan"},
            "adversary": {"preset": preset},
        }
        for preset in PRESETS
    ),
    {"adversaries": [{"name": "one", "weight": 0.1, **DIRECT}, {"name": "two", **DIRECT}]},
    {"adversaries": [{"name": "off", "weight": 0, **DIRECT}]},
    {"model": {"path": "model", "lora": {"target_modules": ["q_proj"]}}, "training": {"report_to": ["wandb"]}},
    {"data": {"sources": [{"path": "pairs.jsonl"}, {"path": "pairs.jsonl", "weight": 0.5}]}},
]


@pytest.mark.parametrize("sections", RUNS, ids=range(len(RUNS)))
def test_the_resolved_mapping_is_a_run_file_that_resolves_to_itself(
    write_run: Write, tmp_path: Path, sections: dict[str, Any]
) -> None:
    config = load_run(write_run(**sections))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "again.yaml").write_text(yaml.safe_dump(dict(config.resolved), sort_keys=False), encoding="utf-8")
    again = load_run(elsewhere / "again.yaml")
    assert again.resolved == config.resolved
    assert [plan.config for plan in again.adversaries] == [plan.config for plan in config.adversaries]
    assert (again.model, again.data, again.training) == (config.model, config.data, config.training)
    assert load_run(config.resolved).resolved == config.resolved


def test_a_mapping_is_read_as_a_file_and_left_as_it_was(run_folder: Path) -> None:
    written: dict[str, Any] = {
        "model": {"path": run_folder / "model"},
        "data": {"path": run_folder / "pairs.jsonl"},
        "objective": {"use": "dpo"},
        "output_dir": run_folder / "out",
        "adversaries": ({"name": "one", "weight": 0.5, **DIRECT},),
    }
    config = load_run(written, {"objective.beta": 0.5})
    assert config.resolved["objective"] == {"use": "dpo", "beta": 0.5, "label_smoothing": 0.0}
    assert config.output_dir == run_folder / "out"
    assert written["objective"] == {"use": "dpo"}
    assert "adversary" not in written["adversaries"][0]


def test_a_mistake_in_a_mapping_names_the_run() -> None:
    with pytest.raises(ConfigError, match=r"the run: objective\.betta: unknown option"):
        load_run({"objective": {"use": "dpo", "betta": 1}})


def test_keys_that_start_with_x_are_ignored(write_run: Write) -> None:
    path = write_run("x-rates: &rates {learning_rate: 1e-4}\ntraining: *rates\n")
    assert load_run(path).training.learning_rate == 1e-4


def test_sections_left_empty_take_their_defaults(write_run: Write) -> None:
    assert load_run(write_run("training:\nplugins:\n")).training.learning_rate == 5e-7


# -- adversaries ---------------------------------------------------------------------------------------------------------


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


def test_train_reports_mistakes_before_anything_is_loaded(write_run: Write) -> None:
    with pytest.raises(ConfigError, match="objective 'nope' is not known"):
        ganpo_core.train(write_run(objective={"use": "nope"}))
