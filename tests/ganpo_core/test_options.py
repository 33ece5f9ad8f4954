"""Mappings become dataclasses; misspelt keys are refused with the right one suggested."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import pytest
from annotated_types import Ge, Le

from ganpo_core import Objective, PositiveFloat
from ganpo_core.config.load import SECTIONS as TOP
from ganpo_core.config.load import load_run
from ganpo_core.config.sections import LoraConfig
from ganpo_core.errors import ConfigError
from ganpo_core.options import field_names, validate
from ganpo_core.plugins import load_plugins
from ganpo_core.schema import SECTIONS
from ganpo_core.suggest import closest, did_you_mean


@dataclass(frozen=True)
class Sample(Objective):
    """One option of each sort."""

    rate: PositiveFloat
    """Required."""
    share: Annotated[float, Ge(0), Le(1)] = 0.5
    """Bounded."""
    layers: tuple[int, ...] = ()
    """Several."""
    either: int | str | None = None
    """A union."""
    lora: LoraConfig | None = None
    """Nested."""

    def __post_init__(self) -> None:
        if self.rate == 13:
            raise ValueError("13 is unlucky")


def problems(**options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(Sample, options, "objective")
    return list(caught.value.problems)


def test_a_valid_mapping_becomes_an_instance() -> None:
    made = validate(Sample, {"rate": 2, "layers": [1, 2], "either": "x", "lora": {"r": 3}}, "objective")
    assert made == Sample(2.0, layers=(1, 2), either="x", lora=LoraConfig(r=3))
    assert type(made.rate) is float


def test_every_mistake_is_listed_under_its_path() -> None:
    assert problems(share=2, layers=[1, "a"], lora={"rr": 1}, wrong=1) == [
        "objective.rate: required, and missing",
        "objective.share: must be less than or equal to 1, got 2",
        "objective.layers.1: expected a whole number, got 'a'",
        "objective.lora.rr: unknown option. Did you mean 'r'?",
        "objective.wrong: unknown option.",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": "1"}, "objective.rate: expected a number, got '1'"),
        ({"rate": True}, "objective.rate: expected a number, got True"),
        ({"rate": 0}, "objective.rate: must be greater than 0, got 0"),
        ({"rate": float("nan")}, "objective.rate: must be a finite number, got nan"),
        ({"rate": 1, "either": 1.5}, "objective.either: expected a whole number or text, got 1.5"),
        ({"rate": 1, "layers": 3}, "objective.layers: expected a list, got 3"),
        ({"rate": 1, "lora": []}, "objective.lora: expected a section of `key: value` lines, got []"),
        ({"rate": 13}, "objective: 13 is unlucky"),
    ],
)
def test_a_wrong_value_says_what_was_expected(options: dict[str, object], message: str) -> None:
    assert problems(**options) == [message]


def test_what_is_no_plain_data_is_refused() -> None:
    (message,) = problems(rate=object())
    assert message.startswith("objective: an option is not plain data: ")


# -- suggestions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known", "nearest"),
    [
        ("betta", ["beta", "label_smoothing"], "beta"),
        ("adam_bta1", ["adam_beta2", "adam_beta1"], "adam_beta1"),
        ("pdo", ["dpo", "kto", "ipo"], "dpo"),
        ("DPO", ["dpo", "simpo"], "dpo"),
        ("rr", ["r", "alpha"], "r"),
        ("learning", ["learning_rate", "max_steps"], "learning_rate"),
        ("zzz", ["dpo", "simpo"], None),
        ("x", [], None),
    ],
)
def test_the_nearest_name_is_the_one_with_the_fewest_slips(name: str, known: list[str], nearest: str | None) -> None:
    assert closest(name, known) == nearest
    assert did_you_mean(name, known) == (f" Did you mean '{nearest}'?" if nearest else "")


def slips(key: str, draw: random.Random) -> Iterator[str]:
    """One of each edit of one letter: deletion, transposition, replacement, insertion."""
    at = draw.randrange(len(key))
    letter = draw.choice(string.ascii_lowercase)
    yield key[:at] + key[at + 1 :]
    yield key[:at] + key[at : at + 2][::-1] + key[at + 2 :]
    yield key[:at] + letter + key[at + 1 :]
    yield key[:at] + letter + key[at:]


def test_every_misspelt_option_is_refused_and_the_right_one_suggested() -> None:
    """300 single-letter slips over the options of every section and every component."""
    draw = random.Random(11)
    classes: dict[str, type] = {**SECTIONS, "model.lora": LoraConfig}
    classes |= {f"{kind} {name}": entry.component for kind, name, entry in load_plugins().entries()}
    cases = [
        (path, cls, key, typo)
        for path, cls in classes.items()
        for key in field_names(cls)
        for _ in range(3)
        for typo in slips(key, draw)
        if typo and typo not in field_names(cls)
    ]
    suggested = 0
    for path, cls, key, typo in draw.sample(cases, 300):
        with pytest.raises(ConfigError) as caught:
            validate(cls, {typo: 1}, path)
        (message,) = [message for message in caught.value.problems if message.startswith(f"{path}.{typo}: unknown option.")]
        suggested += message.endswith(f"Did you mean '{key}'?")
    assert suggested >= 285, f"{suggested} of 300"


def test_every_misspelt_section_is_refused_and_the_right_one_suggested() -> None:
    draw = random.Random(12)
    typos = [(key, typo) for key in TOP for typo in slips(key, draw) if typo and typo not in TOP and typo[:2] != "x-"]
    with pytest.raises(ConfigError) as caught:
        load_run({typo: 1 for _, typo in typos})
    for key, typo in typos:
        (message,) = [found for found in caught.value.problems if f": {typo}: unknown section." in found]
        assert f" Did you mean '{key}'? Known: " in message or {key, typo} & {"adversary", "adversaries"}


def test_every_misspelt_use_is_refused_and_use_suggested() -> None:
    draw = random.Random(13)
    typos = {typo for _ in range(10) for typo in slips("use", draw)} - {"use"}
    for typo in typos:
        with pytest.raises(ConfigError) as caught:
            load_run({"objective": {typo: "dpo"}})
        assert f"the run: objective.{typo}: unknown option. Did you mean 'use'?" in caught.value.problems
