"""Packages of other people, installed by pip into a folder of their own, and composed from YAML."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "acme-pair"
version = "3.1"

[project.entry-points.ganpo]
acme_pair = "acme_pair"
"""
SOURCE = '''\
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ganpo_core import Discriminator, Objective, PairLogps, PairLoss, PositiveFloat, hookimpl


@dataclass(frozen=True)
class Ratio(Objective):
    """The log-ratio of rejected to chosen."""

    needs_reference = False

    scale: PositiveFloat = 1.0
    """Of the loss."""

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        chosen, rejected = policy.chosen.mean, policy.rejected.mean
        return PairLoss(self.scale * (rejected - chosen), chosen.detach(), rejected.detach())


class Sum(nn.Module):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.line = nn.Linear(latent_dim, 1)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return self.line(states).squeeze(-1).masked_fill(~mask, 0.0).sum(1)


@dataclass(frozen=True)
class SumCritic(Discriminator):
    """A sum of linear scores; it offers no features."""

    def build(self, latent_dim: int) -> nn.Module:
        return Sum(latent_dim)


@hookimpl
def ganpo_objectives() -> dict[str, type[Objective]]:
    return {"acme_ratio": Ratio}


@hookimpl
def ganpo_discriminators() -> dict[str, type[Discriminator]]:
    return {"acme_sum": SumCritic}
'''


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A folder into which pip has installed a copy of examples/acme_hinge and a package made here."""
    folder = tmp_path_factory.mktemp("third_party")
    shutil.copytree(root / "examples" / "acme_hinge", folder / "hinge", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pair").mkdir()
    (folder / "pair" / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (folder / "pair" / "acme_pair.py").write_text(SOURCE, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    target = folder / "site"
    command = [*pip, "--disable-pip-version-check", "--target", *map(str, (target, folder / "hinge", folder / "pair"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def ganpo(packages: Path, run_folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command in the folder of the run file, with the packages on its path."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ganpo_core", *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])}
        return subprocess.run(command, capture_output=True, text=True, cwd=run_folder, env=environment, check=False)

    return run


Ganpo = Callable[..., subprocess.CompletedProcess[str]]


def test_installed_packages_are_listed_as_not_enabled(ganpo: Ganpo) -> None:
    rows = [row for row in json.loads(ganpo("plugins", "--json").stdout) if row["distribution"] != "ganpo"]
    assert rows == [
        {"kind": "plugin", "name": name, "plugin": name, "distribution": dist, "version": version, "enabled": False}
        for name, dist, version in (("acme_hinge", "acme-hinge", "1.0"), ("acme_pair", "acme-pair", "3.1"))
    ]
    (line,) = [line for line in ganpo("plugins").stdout.splitlines() if line.split()[1] == "acme_hinge"]
    assert line.endswith("1.0  not enabled: add it to `plugins:` in the run file")


def test_a_package_that_is_not_named_is_refused_with_the_hint(ganpo: Ganpo, write_run: Callable[..., Path]) -> None:
    write_run(objective={"use": "acme_hinge"})
    done = ganpo("check", "run.yaml")
    assert done.returncode == 1
    assert done.stderr.startswith("error: run.yaml:6: objective 'acme_hinge' is not known. Did you mean 'hinge'? Known: ")
    assert done.stderr.endswith(
        ". Installed but not enabled: acme_hinge, acme_pair; enable one with `plugins: [acme_hinge]`\n"
    )


def test_a_package_that_is_named_takes_part(ganpo: Ganpo, write_run: Callable[..., Path]) -> None:
    write_run(plugins=["acme_hinge"], objective={"use": "acme_hinge", "margin": 2.5})
    done = ganpo("check", "run.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["objective.margin", "2.5", "run.yaml:7"] in rows
    assert ["plugins", '["acme_hinge"]', "run.yaml:9"] in rows


def test_the_same_plugin_works_as_a_single_file(ganpo: Ganpo, write_run: Callable[..., Path], root: Path) -> None:
    path = write_run(plugins=["./acme_hinge.py"], objective={"use": "acme_hinge"})
    shutil.copy(root / "examples" / "acme_hinge" / "acme_hinge.py", path.parent)
    done = ganpo("check", "run.yaml")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_objective_and_a_critic_of_one_package_compose_with_built_in_parts(
    ganpo: Ganpo, write_run: Callable[..., Path]
) -> None:
    write_run(
        plugins=["acme_pair"],
        objective={"use": "acme_ratio", "scale": 2},
        latents={"use": "hidden_state"},
        discriminator={"use": "acme_sum", "frozen": True},
        divergence={"use": "ragan"},
    )
    done = ganpo("check", "run.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["discriminator.use", "acme_sum", "run.yaml:14"] in rows
    assert ["discriminator.frozen", "true", "run.yaml:15"] in rows
    assert ["objective.scale", "2.0", "run.yaml:7"] in rows


def test_a_mistake_in_its_options_reads_like_any_other(ganpo: Ganpo, write_run: Callable[..., Path]) -> None:
    write_run(plugins=["acme_pair"], objective={"use": "acme_ratio", "scael": 2})
    done = ganpo("check", "run.yaml")
    assert done.stderr == "error: run.yaml:7: objective.scael: unknown option. Did you mean 'scale'?\n"


def test_describe_enables_it_on_request(ganpo: Ganpo) -> None:
    done = ganpo("describe", "discriminator", "acme_sum", "--plugin", "acme_pair")
    assert "A sum of linear scores; it offers no features." in done.stdout
    assert "Provided by acme_pair 3.1 (acme-pair)" in done.stdout
