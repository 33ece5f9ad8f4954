"""Every built-in with every other: a few steps through a run file, or a refusal with its reason. No third thing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ganpo_core
from ganpo_core.errors import ConfigError
from ganpo_core.plugins import load_plugins

MakeRun = Callable[..., dict[str, Any]]

PLUGINS = load_plugins()
SMALL = {
    "transformer": {"hidden_dim": 8, "num_heads": 2, "num_layers": 1, "max_positions": 32},
    "mlp": {"hidden_dim": 8},
    "token_mlp": {"hidden_dim": 8},
    "attention_pool": {"hidden_dim": 8},
    "gru": {"hidden_dim": 8},
    "conv": {"hidden_dim": 8},
}
"""Options that keep a component quick; anything not listed runs at its defaults."""


def names(kind: str) -> list[str]:
    return list(PLUGINS.registries[kind])


def train(run_file: dict[str, Any], steps: int = 2) -> list[dict[str, float]]:
    run_file["training"] = {
        "learning_rate": 1e-3, "max_steps": steps, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2,
        "logging_steps": 1, "save_steps": None,
    }
    folder = ganpo_core.train(run_file)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, steps + 1)]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    return lines


OF_IMAGES = ("image_positions", "vision_tower", "projector", "cross_modal")
"""Extractors that a model of text has nothing for."""


@pytest.mark.parametrize("extractor", OF_IMAGES)
def test_latents_of_images_are_refused_for_a_model_of_text(extractor: str, tiny_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="adversary 'latent': its latents are of images, and the model reads text alone"):
        train(tiny_run(latents={"use": extractor}, divergence={"use": "mse"}))


@pytest.mark.parametrize("extractor", sorted({*names("latent_extractor")} - {*OF_IMAGES}))
@pytest.mark.parametrize("divergence", names("divergence"))
def test_every_divergence_with_every_extractor(divergence: str, extractor: str, tiny_run: MakeRun) -> None:
    lines = train(
        tiny_run(
            latents={"use": extractor},
            divergence={"use": divergence},
            discriminator={"use": "mlp", "hidden_dim": 8},
            adversary={"weight_warmup_ratio": 0},
        )
    )
    assert "adversary/penalty" in lines[0]


GAMES = [name for name in names("divergence") if PLUGINS.registries["divergence"][name].component.needs_critic]  # type: ignore[attr-defined]


@pytest.mark.parametrize("discriminator", names("discriminator"))
@pytest.mark.parametrize("divergence", GAMES)
def test_every_divergence_with_every_discriminator(divergence: str, discriminator: str, tiny_run: MakeRun) -> None:
    train(
        tiny_run(
            latents={"use": "hidden_state", "layer": [1, -1]},
            divergence={"use": divergence},
            discriminator={"use": discriminator, **SMALL.get(discriminator, {})},
            adversary={"weight": 0.1},
        ),
        steps=3,
    )


@pytest.mark.parametrize("preset", ["paper", "paper_alg1", "official"])
@pytest.mark.parametrize("divergence", GAMES)
def test_every_divergence_in_the_faithful_presets_or_the_forms_it_offers(
    divergence: str, preset: str, tiny_run: MakeRun
) -> None:
    run_file = tiny_run(
        latents={"use": "hidden_state"},
        divergence={"use": divergence},
        discriminator={"use": "transformer", **SMALL["transformer"]},
        adversary={"preset": preset, "weight": 0.1},
    )
    forms = PLUGINS.registries["divergence"][divergence].component.forms  # type: ignore[attr-defined]
    if preset != "official" and "minimax" not in forms:
        with pytest.raises(ConfigError, match=f"divergence '{divergence}' has no form 'minimax'; it offers: non_saturating"):
            train(run_file)
        run_file["adversary"]["form"] = "non_saturating"
    train(run_file, steps=3)


@pytest.mark.parametrize("divergence", GAMES)
def test_no_game_lacks_a_cross_term_or_the_reason_why(divergence: str, tiny_run: MakeRun) -> None:
    run_file = tiny_run(
        latents={"use": "hidden_state"},
        divergence={"use": divergence},
        discriminator={"use": "mlp", "hidden_dim": 8},
        adversary={"cross_weight": 0.5},
    )
    if PLUGINS.registries["divergence"][divergence].component.allows_cross:  # type: ignore[attr-defined]
        assert "adversary/chosen/critic_loss_cross" in train(run_file, steps=1)[0]
    else:
        with pytest.raises(ConfigError, match="the policy's scores cancel out of its critic loss"):
            train(run_file)


def test_learned_latents_need_critics_that_learn(tiny_run: MakeRun, tmp_path: Path) -> None:
    latents = {"use": "hidden_state", "layer": [1, -1], "combine": "mix", "project": "learned", "projection_dim": 4}
    sections: dict[str, Any] = {"latents": latents, "divergence": {"use": "ragan"}}
    train(tiny_run(discriminator={"use": "mlp", "hidden_dim": 8}, **sections), steps=3)
    sections["output_dir"] = str(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"latents 'hidden_state' learn a transform .* `frozen: true` keeps"):
        train(tiny_run(discriminator={"use": "mlp", "frozen": True}, **sections))
    with pytest.raises(ConfigError, match=r"latents 'hidden_state' learn a transform .* the distance 'mse' has none"):
        train(tiny_run(**{**sections, "divergence": {"use": "mse"}}))


@pytest.mark.parametrize("distance", ["mmd", "sliced_wasserstein"])
def test_a_queue_of_past_references_fills_and_changes_the_distance(
    distance: str, tiny_run: MakeRun, tmp_path: Path
) -> None:
    """The first step has no past: it equals the run without a queue. The second has one."""
    plain, queued = (
        train(tiny_run(latents={"use": "hidden_state"}, divergence={"use": distance, **options},
                       adversary={"weight_warmup_ratio": 0}, output_dir=str(tmp_path / name)))
        for name, options in (("plain", {}), ("queued", {"queue": 8}))
    )
    assert queued[0] == plain[0]
    assert queued[1]["adversary/chosen/distance"] != plain[1]["adversary/chosen/distance"]


@pytest.mark.parametrize("options", [{"norm": "zscore"}, {"final_norm": True, "layer": 1}, {"positions": "distinct"},
                                     {"num_positions": 2}, {"every": 2, "drop_last": True}, {"project": "fixed"}], ids=str)
@pytest.mark.parametrize("divergence", ["mse", "ragan"])
def test_latents_of_every_description_train(options: dict[str, Any], divergence: str, tiny_run: MakeRun) -> None:
    lines = train(
        tiny_run(
            latents={"use": "hidden_state", **options},
            divergence={"use": divergence},
            discriminator={"use": "transformer", **SMALL["transformer"]},
            adversary={"weight_warmup_ratio": 0},
        ),
        steps=3,
    )
    assert lines[2]["adversary/gradient_ratio"] > 0


@pytest.mark.parametrize("constraint", ["gradient_penalty", "clipping", "spectral_norm"])
@pytest.mark.parametrize("discriminator", names("discriminator"))
def test_wasserstein_trains_or_says_why_not(constraint: str, discriminator: str, tiny_run: MakeRun) -> None:
    options = {"use": discriminator, **SMALL.get(discriminator, {})}
    run_file = tiny_run(
        latents={"use": "hidden_state"},
        divergence={"use": "wasserstein", "constraint": constraint},
        discriminator=options,
        adversary={"form": "non_saturating"},
    )
    if constraint == "spectral_norm":
        with pytest.raises(ConfigError, match=f"needs a Lipschitz discriminator; '{discriminator}' is not"):
            train(run_file)
        if discriminator not in ("linear", "mlp", "token_mlp"):
            return
        run_file["discriminator"] = {**options, "spectral_norm": True}
    train(run_file)


@pytest.mark.parametrize("objective", names("objective"))
@pytest.mark.parametrize("regularizer", ["alone", "mse", "ragan"])
def test_every_objective_trains_three_steps_alone_and_regularized(objective: str, regularizer: str, tiny_run: MakeRun) -> None:
    sections: dict[str, Any] = {}
    if regularizer != "alone":
        sections = {
            "latents": {"use": "hidden_state"},
            "divergence": {"use": regularizer},
            "discriminator": {"use": "mlp", "hidden_dim": 8},
        }
    lines = train(tiny_run(objective={"use": objective}, **sections), steps=3)
    assert ("adversary/penalty" in lines[-1]) == (regularizer != "alone")


def test_two_adversaries_at_once(tiny_run: MakeRun) -> None:
    lines = train(
        tiny_run(
            adversaries=[
                {"name": "early", "weight": 0.5, "latents": {"use": "hidden_state", "layer": 1},
                 "divergence": {"use": "mse"}, "adversary": {"weight_warmup_ratio": 0}},
                {"name": "late", "latents": {"use": "pooled"}, "divergence": {"use": "ragan"},
                 "discriminator": {"use": "linear"}, "adversary": {"weight_warmup_ratio": 0}},
            ]
        )
    )
    assert lines[0]["adversary/early/weight"] == 0.5
    assert lines[0]["adversary/late/weight"] == 1.0


def test_lora_trains_adapters_against_the_base_model(tiny_run: MakeRun, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run_file = tiny_run(
        model={"path": str(tiny_model), "lora": {"r": 2, "alpha": 4}},
        latents={"use": "hidden_state"},
        divergence={"use": "ragan"},
        discriminator={"use": "mlp", "hidden_dim": 8},
        adversary={"weight_warmup_ratio": 0},
    )
    lines = train(run_file)
    assert lines[0]["rewards/margins"] == 0.0
    assert lines[1]["rewards/margins"] != 0.0
    saved = Path(run_file["output_dir"]) / "policy"
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {p.name for p in saved.iterdir()}
    AutoModelForCausalLM.from_pretrained(saved)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = PeftModel.from_pretrained(base, saved)
    assert any("lora_B" in name and bool(weight.any()) for name, weight in adapted.named_parameters())


def test_bfloat16_computes_in_half_and_keeps_whole_weights(tiny_run: MakeRun, tiny_model: Path) -> None:
    from safetensors.torch import load_file

    run_file = tiny_run(
        model={"path": str(tiny_model), "dtype": "bfloat16"},
        latents={"use": "hidden_state"},
        divergence={"use": "ragan"},
        discriminator={"use": "transformer", **SMALL["transformer"]},
    )
    train(run_file)
    weights = load_file(Path(run_file["output_dir"]) / "policy" / "model.safetensors")
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.float32"}


@pytest.fixture
def plain_critic(tmp_path: Path) -> dict[str, Any]:
    """The sections of a run with a critic, from a file, that offers no features."""
    plugin = tmp_path / "plain_critic.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "from ganpo_core import Discriminator, hookimpl\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.line = nn.Linear(width, 1)\n"
        "    def forward(self, states, mask):\n"
        "        scores = self.line(states).squeeze(-1).masked_fill(~mask, 0)\n"
        "        return scores.sum(1) / mask.sum(1).clamp(min=1)\n"
        "@dataclass(frozen=True)\n"
        "class Plain(Discriminator):\n"
        "    def build(self, latent_dim):\n"
        "        return Net(latent_dim)\n"
        "@hookimpl\n"
        "def ganpo_discriminators():\n"
        "    return {'plain': Plain}\n"
    )
    return {
        "plugins": [str(plugin)],
        "latents": {"use": "hidden_state"},
        "divergence": {"use": "ragan"},
        "discriminator": {"use": "plain"},
    }


def test_a_discriminator_without_features_answers_with_the_paired_score(
    plain_critic: dict[str, Any], tiny_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_run(**plain_critic))
    assert "Plain offers no features, so the policy answers with form: paired_score" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"adversary\.form: feature_matching needs a critic that offers `features"):
        train(tiny_run(**plain_critic, adversary={"form": "feature_matching"}, output_dir=str(tmp_path / "other")))


def test_a_settled_form_is_written_down_and_reads_again(
    plain_critic: dict[str, Any], tiny_run: MakeRun, tmp_path: Path
) -> None:
    """`run.yaml` of a run whose critic has no features names the form that it ran with, and trains again."""
    import yaml

    run_file = tiny_run(**plain_critic)
    train(run_file)
    again = yaml.safe_load((Path(run_file["output_dir"]) / "run.yaml").read_text())
    assert again["adversary"]["form"] == "paired_score"
    train({**again, "output_dir": str(tmp_path / "again")})
