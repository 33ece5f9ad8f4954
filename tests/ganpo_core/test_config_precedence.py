"""What wins over what in a run file, where each value comes from, and the resolved file read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from run_files import DIRECT, GAME, Problems, Write

from ganpo_core.config import RunConfig, load_run
from ganpo_core.config.presets import PRESETS
from ganpo_core.config.run import flatten
from ganpo_core.errors import ConfigError


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
