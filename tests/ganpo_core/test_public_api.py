"""What a plugin author and a script import."""

from __future__ import annotations

import inspect
import types

import pytest

import ganpo_core
from ganpo_core import ConfigError, GanpoError, Objective, PluginError


def test_all_is_exactly_what_the_package_exports() -> None:
    public = {
        name
        for name, value in vars(ganpo_core).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    borrowed = {"annotations", "Mapping", "Sequence", "Path"}
    assert public - borrowed == set(ganpo_core.__all__)
    assert list(ganpo_core.__all__) == sorted(set(ganpo_core.__all__))


@pytest.mark.parametrize("name", ganpo_core.__all__)
def test_every_public_function_and_class_has_a_docstring_of_its_own(name: str) -> None:
    value = getattr(ganpo_core, name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    assert value.__doc__, name
    assert not value.__doc__.startswith(f"{name}("), "made by dataclass"
    for method, function in vars(value).items() if inspect.isclass(value) else ():
        if inspect.isfunction(function) and not method.startswith("_"):
            assert function.__doc__, f"{name}.{method}"


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert ganpo_core.__version__ == version("ganpo")


def test_component_gives_a_validated_instance() -> None:
    made = ganpo_core.component("objective", "dpo", beta=0.25)
    assert isinstance(made, Objective)
    assert made.beta == 0.25  # type: ignore[attr-defined]


def test_component_refuses_what_a_run_file_would() -> None:
    with pytest.raises(ConfigError, match=r"objective\.betta: unknown option\. Did you mean 'beta'\?"):
        ganpo_core.component("objective", "dpo", betta=0.25)
    with pytest.raises(ConfigError, match=r"objective 'simp' is not known\. Did you mean 'simpo'\? Known: alpha_po, "):
        ganpo_core.component("objective", "simp")
    with pytest.raises(PluginError, match="kind 'objetive' is not known"):
        ganpo_core.component("objetive", "dpo")


def test_the_errors_are_one_family() -> None:
    for name in ("ConfigError", "PluginError", "DataError", "CheckpointError", "TrainingError"):
        assert issubclass(getattr(ganpo_core, name), GanpoError)
