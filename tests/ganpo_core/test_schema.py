"""The JSON schema of a run file, and options in words."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Gt, Interval

from ganpo_core import Objective
from ganpo_core.config.sections import TrainingConfig
from ganpo_core.plugins import load_plugins
from ganpo_core.schema import describe_options, run_schema

GOOD: dict[str, Any] = {
    "plugins": ["./mine.py"],
    "x-note": "ignored",
    "seed": 0,
    "model": {"path": "gpt2", "lora": {"r": 8}},
    "data": {"sources": [{"path": "a.jsonl", "weight": 0.5}]},
    "objective": {"use": "dpo", "beta": 0.1},
    "latents": {"use": "hidden_state", "layer": -1},
    "discriminator": {"use": "transformer", "num_layers": 2},
    "divergence": {"use": "ragan"},
    "adversary": {"preset": "paper", "weight": 1.0},
    "training": {"learning_rate": 5e-7, "max_steps": 3},
    "output_dir": "out",
}
BAD: list[tuple[str, Any]] = [
    ("trainng", {}),
    ("objective", {"use": "dpo", "betta": 0.1}),
    ("objective", {"use": "nope"}),
    ("objective", {"use": "dpo", "beta": -1}),
    ("objective", {"beta": 0.1}),
    ("model", {"path": "gpt2", "lora": {"rr": 8}}),
    ("model", {}),
    ("training", {"max_steps": 1.5}),
    ("seed", "a"),
]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(run_schema(load_plugins())))
    return made


def test_the_schema_has_every_section_closed_against_other_keys(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["model", "data", "objective", "output_dir"]
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {*GOOD, "adversaries"} - {"x-note"}
    for section in ("model", "data", "training", "adversary"):
        assert schema["properties"][section]["additionalProperties"] is False


def test_every_component_is_a_branch_with_its_options_and_their_text(schema: dict[str, Any]) -> None:
    sections = {"latent_extractor": "latents"}
    for kind, registry in load_plugins().registries.items():
        if not registry.kind.in_run_file:
            assert kind not in schema["properties"]
            continue
        branches = schema["properties"][sections.get(kind, kind)]["oneOf"]
        assert [branch["properties"]["use"]["const"] for branch in branches] == list(registry)
        assert all(branch["additionalProperties"] is False and "use" in branch["required"] for branch in branches)
    dpo = next(b for b in schema["properties"]["objective"]["oneOf"] if b["properties"]["use"]["const"] == "dpo")
    assert dpo["properties"]["beta"]["exclusiveMinimum"] == 0
    assert "log-ratio" in dpo["properties"]["beta"]["description"]


def test_every_reference_inside_the_schema_resolves(schema: dict[str, Any]) -> None:
    references = [part.split('"')[0] for part in json.dumps(schema).split('"$ref": "#/$defs/')[1:]]
    assert references
    assert set(references) <= set(schema["$defs"])


@pytest.mark.skipif(importlib.util.find_spec("jsonschema") is None, reason="needs the jsonschema package")
def test_a_good_file_validates_and_a_mistaken_one_does_not(schema: dict[str, Any]) -> None:
    import jsonschema  # type: ignore[import-untyped, unused-ignore]

    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(GOOD)
    for section, value in BAD:
        assert not validator.is_valid({**copy.deepcopy(GOOD), section: value}), section


@dataclass(frozen=True)
class Sample(Objective):
    """One option of each sort."""

    needed: float
    """Must be given."""
    bounded: Annotated[int, Gt(2)] = 3
    """Has a
    bound."""
    ranged: Annotated[float, Interval(gt=0)] = 1e-7
    """Has a bound of a sort that is not shown."""
    chosen: Literal["a", "b"] = "a"
    """One of two."""
    several: tuple[int, ...] = (1, 2)
    """A list."""
    made: tuple[str, ...] = field(default_factory=tuple)
    """Made by a factory."""
    maybe: str | None = None
    """May be null."""
    switch: bool = True
    """On or off."""


def test_options_are_described_in_words() -> None:
    described = [(option.name, option.type, option.default, option.text) for option in describe_options(Sample)]
    assert described == [
        ("needed", "number", "required", "Must be given."),
        ("bounded", "whole number > 2", "3", "Has a bound."),
        ("ranged", "number", "1e-07", "Has a bound of a sort that is not shown."),
        ("chosen", "a | b", "a", "One of two."),
        ("several", "list of whole number", "[1, 2]", "A list."),
        ("made", "list of text", "[]", "Made by a factory."),
        ("maybe", "text | null", "null", "May be null."),
        ("switch", "true | false", "true", "On or off."),
    ]


def test_every_option_of_every_section_and_component_has_a_text() -> None:
    classes: list[type] = [entry.component for _, _, entry in load_plugins().entries()]
    for cls in (TrainingConfig, *classes):
        own = vars(cls).get("__annotations__", {})
        assert [option.name for option in describe_options(cls) if option.name in own and not option.text] == [], cls
