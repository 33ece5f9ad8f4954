"""Registries: names, near-misses, and instances made from options."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ganpo_core import Objective, PositiveFloat
from ganpo_core.errors import ConfigError, PluginError
from ganpo_core.registry import KINDS, Provider, Registry


@dataclass(frozen=True)
class Hinge(Objective):
    """A hinge."""

    beta: PositiveFloat = 0.1
    """Scale."""


HERE = Provider("here", "here", "1.0")


@pytest.fixture
def objectives() -> Registry:
    registry = Registry(KINDS[0])
    registry.add("logistic", Objective, HERE)
    registry.add("hinge", Hinge, HERE)
    return registry


def test_it_is_a_mapping_in_alphabetical_order(objectives: Registry) -> None:
    assert list(objectives) == ["hinge", "logistic"]
    assert len(objectives) == 2
    assert "hinge" in objectives
    assert objectives["hinge"].component is Hinge
    assert objectives["hinge"].provider is HERE


def test_an_unknown_name_is_compared_with_the_known(objectives: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        _ = objectives["hing"]
    assert str(caught.value) == "objective 'hing' is not known. Did you mean 'hinge'? Known: hinge, logistic"


def test_an_empty_registry_says_so() -> None:
    assert Registry(KINDS[0]).unknown("x") == "objective 'x' is not known. Known: none"


def test_create_validates_under_the_section_of_its_kind(objectives: Registry) -> None:
    assert objectives.create("hinge", {"beta": 2}) == Hinge(2.0)
    with pytest.raises(ConfigError, match=r"objective\.betta: unknown option\. Did you mean 'beta'\?"):
        objectives.create("hinge", {"betta": 2})
    with pytest.raises(ConfigError, match=r"here\.there\.beta: must be greater than 0, got 0"):
        objectives.create("hinge", {"beta": 0}, "here.there")


def test_a_name_given_twice_names_both_providers(objectives: Registry) -> None:
    with pytest.raises(PluginError) as caught:
        objectives.add("hinge", Hinge, Provider("there", None, None))
    assert str(caught.value) == (
        "objective 'hinge' is provided by both 'here' and 'there'; rename one (ganpo_objectives of here 1.0 and there)"
    )
