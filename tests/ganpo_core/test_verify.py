"""`ganpo verify`, the pytest fixture, and `ganpo describe` of a critic's size."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ganpo_core import Component, component
from ganpo_core.plugins import load_plugins
from ganpo_core.testing import verify

BROKEN = """
from dataclasses import dataclass
from ganpo_core import Divergence, hookimpl

@dataclass(frozen=True)
class Nothing(Divergence):
    \"\"\"A distance that is none.\"\"\"

    needs_critic = False

    level: float

    def distance(self, policy, reference):
        return 0 * policy.states.sum() + self.level

@dataclass(frozen=True)
class Example(Nothing):
    \"\"\"The same, with an example.\"\"\"

    example = {"level": 1.0}

@hookimpl
def ganpo_divergences():
    return {"nothing": Nothing, "example": Example}
"""

Ganpo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ganpo(tmp_path: Path) -> Ganpo:
    """Runs the command line in an empty folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ganpo_core", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    return run


def test_one_component_with_options(ganpo: Ganpo) -> None:
    found = ganpo("verify", "divergence", "jsd")
    assert found.returncode == 0
    assert found.stdout.startswith("ok      divergence jsd")
    assert ganpo("verify", "objective", "dpo", "beta=0.3").returncode == 0


def test_all_of_a_kind_are_counted(ganpo: Ganpo) -> None:
    found = ganpo("verify", "latent_extractor", "--all")
    number = len(load_plugins().registries["latent_extractor"])
    assert found.returncode == 0
    assert found.stdout.splitlines()[-1] == f"{number} of {number} keep their contract"


def test_a_broken_promise_is_named_and_fails(ganpo: Ganpo, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN, encoding="utf-8")
    found = ganpo("verify", "divergence", "nothing", "level=1.0", "--plugin", "./broken.py")
    assert found.returncode == 1
    assert found.stdout.startswith("FAILED  divergence nothing: Nothing.distance: expected ")
    assert "Traceback" not in found.stderr


def test_a_required_option_is_asked_for_unless_there_is_an_example(ganpo: Ganpo, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN, encoding="utf-8")
    found = ganpo("verify", "divergence", "nothing", "--plugin", "./broken.py")
    assert found.returncode == 1
    assert found.stderr == "error: divergence.level: required, and missing\n"
    assert ganpo("verify", "divergence", "example", "--plugin", "./broken.py").stdout.startswith("FAILED")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "ganpo verify: give a kind and a name, such as `ganpo verify objective dpo`, or --all"),
        (("objective",), "ganpo verify: give a kind and a name, such as `ganpo verify objective dpo`, or --all"),
        (("objective", "dpo", "--all"), "ganpo verify: give either a name or --all"),
        (("objectiv", "--all"), "kind 'objectiv' is not known. Did you mean 'objective'?"),
        (("objective", "dpoo"), "objective 'dpoo' is not known. Did you mean 'dpo'?"),
        (("objective", "dpo", "beta=0"), "objective.beta: must be greater than 0, got 0"),
    ],
)
def test_mistakes_are_answered(arguments: tuple[str, ...], message: str, ganpo: Ganpo) -> None:
    found = ganpo("verify", *arguments)
    assert found.returncode == 1
    assert found.stderr.startswith(f"error: {message}")


def test_the_fixture_is_the_check(ganpo_verify: Callable[[Component], None]) -> None:
    assert ganpo_verify is verify
    ganpo_verify(component("divergence", "mse"))


def test_what_is_no_component_is_refused() -> None:
    with pytest.raises(AssertionError, match="int: expected a component that inherits one of Objective, LatentExtractor"):
        verify(3)  # type: ignore[arg-type]


def test_the_example_package_tests_itself_in_two_lines(root: Path) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    found = subprocess.run(
        command, cwd=root / "examples" / "acme_hinge", env=environment, capture_output=True, text=True, check=False
    )
    assert "1 passed" in found.stdout, found.stdout + found.stderr


def test_describe_prints_a_critics_parameters_and_overhead(ganpo: Ganpo) -> None:
    """8,796,673 parameters; 19.1 MFLOP a token at 1024; both critics near 1 % of a DPO step of Gemma2-2B."""
    arguments = ("--latent-dim", "2304", "--tokens", "1024", "--policy-parameters", "2.61e9")
    found = ganpo("describe", "discriminator", "transformer", *arguments)
    assert found.returncode == 0
    assert "Parameters  8,796,673 for latents of width 2,304" in found.stdout
    assert "Work        19.1 MFLOP forward for each token of a row of 1,024" in found.stdout
    assert "            0.37% of a policy of 2,610,000,000 parameters" in found.stdout
    (line,) = [line for line in found.stdout.splitlines() if line.startswith("Overhead")]
    assert 0.9 < float(line.split()[1].rstrip("%")) < 1.3
    llama = ganpo("describe", "discriminator", "transformer", "num_layers=4", "--latent-dim", "4096", *arguments[2:4],
                  "--policy-parameters", "8.03e9")
    assert "Parameters  16,018,945" in llama.stdout
    (line,) = [line for line in llama.stdout.splitlines() if line.startswith("Overhead")]
    assert 0.5 < float(line.split()[1].rstrip("%")) < 0.8


def test_a_size_is_told_of_discriminators_alone(ganpo: Ganpo) -> None:
    found = ganpo("describe", "objective", "dpo", "--latent-dim", "8")
    assert found.returncode == 1
    assert "a size is told of discriminators; 'dpo' is of kind objective" in found.stderr
