"""Plugins: what loads, what does not, and what a user reads when something is wrong with one."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import ganpo_core.plugins
from ganpo_core import StepReport
from ganpo_core.config import load_run
from ganpo_core.errors import ConfigError, GanpoError, PluginError
from ganpo_core.plugins import load_plugins

HEAD = """\
from dataclasses import dataclass
from ganpo_core import Objective, PositiveFloat, hookimpl

@dataclass(frozen=True)
class Mine(Objective):
    beta: PositiveFloat = 0.5
"""
GOOD = HEAD + '\n@hookimpl\ndef ganpo_objectives():\n    return {"NAME": Mine}\n'


@pytest.fixture
def plugin_file(tmp_path: Path) -> Callable[..., str]:
    """Writes a plugin file and returns how a run file would name it."""

    def write(text: str, name: str = "mine") -> str:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return f"./{name}.py"

    return write


def refusal(names: list[str], folder: Path) -> str:
    with pytest.raises(PluginError) as caught:
        _ = load_plugins(names, folder).registries
    return str(caught.value)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that entry points of other distributions are installed, beside the real ones."""
    real = tuple(importlib.metadata.entry_points(group="ganpo"))

    def pretend(*points: tuple[str, str, str]) -> None:
        extra = []
        for name, value, distribution in points:
            point = EntryPoint(name, value, "ganpo")
            vars(point)["dist"] = SimpleNamespace(name=distribution, version="2.0")
            extra.append(point)
        monkeypatch.setattr(ganpo_core.plugins, "entry_points", lambda group: (*real, *extra))

    return pretend


# -- what loads ----------------------------------------------------------------------------------------------------------


def test_a_file_is_found_relative_to_the_run_file(write_run: Callable[..., Path], run_folder: Path) -> None:
    (run_folder / "losses").mkdir()
    (run_folder / "losses" / "mine.py").write_text(GOOD.replace("NAME", "mine"), encoding="utf-8")
    config = load_run(write_run(plugins=["./losses/mine.py"], objective={"use": "mine", "beta": 0.25}))
    assert config.objective.beta == 0.25  # type: ignore[attr-defined]
    assert config.resolved["plugins"] == [str(run_folder / "losses" / "mine.py")]
    provider = config.plugins.providers["mine"]
    assert provider.distribution is None
    assert str(provider.version).startswith("sha256:")


def test_the_order_of_plugins_does_not_matter(plugin_file: Callable[..., str], tmp_path: Path) -> None:
    names = [plugin_file(GOOD.replace("NAME", name), name) for name in ("zebra", "apple", "mango")]
    found = [
        [(kind, name, entry.provider) for kind, name, entry in load_plugins(order, tmp_path).entries()]
        for order in (names, names[::-1], [*names, *names])
    ]
    assert found[0] == found[1] == found[2]
    assert {"zebra", "apple", "mango"} < {name for _, name, _ in found[0]}


def test_two_files_of_one_name_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(GOOD.replace("NAME", name), encoding="utf-8")
    first, second = (load_plugins(["./mine.py"], tmp_path / name) for name in ("one", "two"))
    assert "one" in first.registry("objective")
    assert "two" in second.registry("objective")
    modules = {
        plugins.registry("objective")[name].component.__module__ for plugins, name in ((first, "one"), (second, "two"))
    }
    assert len(modules) == 2


def test_loading_twice_gives_separate_registries(plugin_file: Callable[..., str], tmp_path: Path) -> None:
    name = plugin_file(GOOD.replace("NAME", "mine"))
    assert "mine" in load_plugins([name], tmp_path).registry("objective")
    assert "mine" not in load_plugins().registry("objective")


def test_a_kind_goes_by_its_name_or_its_section() -> None:
    plugins = load_plugins()
    assert plugins.registry("latents") is plugins.registry("latent_extractor")
    with pytest.raises(PluginError, match=r"kind 'objectiv' is not known\. Did you mean 'objective'\? Known: objective, "):
        plugins.registry("objectiv")


# -- what is wrong with one ----------------------------------------------------------------------------------------------


def test_two_plugins_that_claim_one_name_are_both_named(plugin_file: Callable[..., str], tmp_path: Path) -> None:
    name = plugin_file(GOOD.replace("NAME", "dpo"), "acme_dup")
    message = refusal([name], tmp_path)
    assert message.startswith("objective 'dpo' is provided by both 'ganpo_objectives' and 'acme_dup'; rename one")
    assert f"(ganpo_objectives of ganpo_objectives {importlib.metadata.version('ganpo')} and acme_dup sha256:" in message


def test_two_plugins_of_one_name_are_refused(plugin_file: Callable[..., str], tmp_path: Path) -> None:
    name = plugin_file(GOOD.replace("NAME", "x"), "ganpo_objectives")
    message = "plugins: './ganpo_objectives.py' and an earlier plugin are both called 'ganpo_objectives'; rename one"
    assert refusal([name], tmp_path) == message


def test_a_misspelt_hook_is_an_error_with_a_suggestion(plugin_file: Callable[..., str], tmp_path: Path) -> None:
    name = plugin_file(GOOD.replace("ganpo_objectives", "ganpo_objectivs"))
    message = refusal([name], tmp_path)
    assert message.startswith("plugin 'mine sha256:")
    assert "': unknown hook 'ganpo_objectivs'. Did you mean 'ganpo_objectives'? Known: ganpo_objectives, " in message


def test_a_hook_without_its_mark_is_an_error(plugin_file: Callable[..., str], tmp_path: Path) -> None:
    name = plugin_file(GOOD.replace("@hookimpl\n", ""))
    assert "ganpo_objectives is not marked; put @hookimpl from ganpo_core above it" in refusal([name], tmp_path)


def test_a_hook_with_an_argument_it_does_not_have_is_an_error(plugin_file: Callable[..., str], tmp_path: Path) -> None:
    name = plugin_file(GOOD.replace("ganpo_objectives()", "ganpo_objectives(model)"))
    assert "model" in refusal([name], tmp_path)


@pytest.mark.parametrize(
    "statement", ["raise RuntimeError('boom')", "import nothing_of_this_name", "raise SystemExit(3)", "x ="]
)
def test_a_plugin_that_does_not_import_is_an_error_with_its_cause(
    plugin_file: Callable[..., str], tmp_path: Path, statement: str
) -> None:
    before = set(sys.modules)
    message = refusal([plugin_file(statement)], tmp_path)
    assert message.startswith("plugin './mine.py' does not import: ")
    assert any(word in message for word in ("boom", "nothing_of_this_name", "SystemExit: 3", "SyntaxError"))
    assert not {name for name in set(sys.modules) - before if name.startswith("ganpo_plugin_file")}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('boom')", "ganpo_objectives raised ValueError('boom')"),
        ("return [Mine]", "not a mapping of names to classes"),
        ("return None", "ganpo_objectives returned None, not a mapping of names to classes"),
        ("yield {}", "not a mapping of names to classes"),
        ("return {'mine': Mine()}", "not a class that inherits ganpo_core.Objective"),
        ("return {'mine': dict}", "objective 'mine' is <class 'dict'>, not a class that inherits ganpo_core.Objective"),
        ("return {3: Mine}", "ganpo_objectives returned the name 3; names are text"),
        ("return {'': Mine}", "ganpo_objectives returned the name ''; names are text"),
    ],
)
def test_a_hook_that_returns_the_wrong_thing_names_the_plugin_and_the_thing(
    plugin_file: Callable[..., str], tmp_path: Path, body: str, message: str
) -> None:
    name = plugin_file(HEAD + f"\n@hookimpl\ndef ganpo_objectives():\n    {body}\n")
    found = refusal([name], tmp_path)
    assert found.startswith("plugin 'mine sha256:")
    assert message in found


def test_a_class_without_dataclass_is_refused_rather_than_left_without_options(
    plugin_file: Callable[..., str], tmp_path: Path
) -> None:
    name = plugin_file(GOOD.replace("@dataclass(frozen=True)\n", "").replace("NAME", "mine"))
    assert "objective 'mine' is not a dataclass, so it has no options; put @dataclass(frozen=True) above Mine" in refusal(
        [name], tmp_path
    )


def test_an_option_of_a_type_that_cannot_be_resolved_names_the_class(
    plugin_file: Callable[..., str], tmp_path: Path
) -> None:
    text = "from __future__ import annotations\n" + GOOD.replace("PositiveFloat = 0.5", "Nowhere = 0.5")
    registry = load_plugins([plugin_file(text.replace("NAME", "mine"))], tmp_path).registry("objective")
    with pytest.raises(PluginError, match=r"the options of .*Mine cannot be read: .*Nowhere"):
        registry.create("mine", {})


def test_a_missing_file_says_where_it_was_sought(tmp_path: Path) -> None:
    assert refusal(["./nope.py"], tmp_path) == (
        f"plugins: './nope.py' is not a file ({tmp_path}/nope.py); paths are relative to the run file"
    )


def test_through_a_run_file_the_line_is_named(write_run: Callable[..., Path]) -> None:
    with pytest.raises(PluginError) as caught:
        load_run(write_run("plugins: [nope]\n"))
    message = str(caught.value)
    assert message.startswith("run.yaml:5: plugins: 'nope' is not installed; installed: ")
    assert "ganpo_objectives" in message


def test_an_observer_that_raises_is_named(plugin_file: Callable[..., str], tmp_path: Path) -> None:
    text = HEAD + "\n@hookimpl\ndef ganpo_step_finished(report):\n    raise ValueError(report.step)\n"
    with pytest.raises(PluginError, match=r"plugin 'mine sha256:.*': ganpo_step_finished raised ValueError\(7\)"):
        load_plugins([plugin_file(text)], tmp_path).step_finished(StepReport(7, 10, {}))


def test_an_observer_that_leaves_torch_changed_is_named(plugin_file: Callable[..., str], tmp_path: Path) -> None:
    text = HEAD + "\nimport torch\n@hookimpl\ndef ganpo_step_finished():\n    torch.set_grad_enabled(False)\n"
    try:
        with pytest.raises(PluginError, match=r"'mine sha256:.*': ganpo_step_finished left torch's grad mode changed, from True"):
            load_plugins([plugin_file(text)], tmp_path).step_finished(StepReport(7, 10, {}))
    finally:
        torch.set_grad_enabled(True)


def test_an_observer_may_leave_out_the_report(plugin_file: Callable[..., str], tmp_path: Path) -> None:
    text = HEAD + "\nseen = []\n@hookimpl\ndef ganpo_step_finished():\n    seen.append(1)\n"
    plugins = load_plugins([plugin_file(text)], tmp_path)
    plugins.step_finished(StepReport(7, 10, {}))
    assert plugins.manager.get_plugin("mine").seen == [1]  # type: ignore[union-attr]


# -- what is installed ---------------------------------------------------------------------------------------------------


def test_a_broken_plugin_that_nobody_named_harms_nothing(
    install: Callable[..., None], write_run: Callable[..., Path]
) -> None:
    install(("acme_broken", "no_such_module_at_all", "acme-broken"))
    plugins = load_run(write_run()).plugins
    assert "acme_broken" in [provider.plugin for provider in plugins.available]
    assert "dpo" in plugins.registry("objective")


def test_a_broken_plugin_that_is_named_is_an_error_with_its_cause_and_version(install: Callable[..., None]) -> None:
    install(("acme_broken", "no_such_module_at_all", "acme-broken"))
    with pytest.raises(PluginError) as caught:
        load_plugins(["acme_broken"])
    assert str(caught.value) == (
        "plugin 'acme_broken 2.0' does not import: ModuleNotFoundError: No module named 'no_such_module_at_all'"
    )


def test_an_unknown_name_says_which_installed_plugin_to_enable(
    install: Callable[..., None], write_run: Callable[..., Path]
) -> None:
    install(("zzz", "zzz", "zzz"), ("acme_hinge", "acme_hinge", "acme-hinge"))
    with pytest.raises(ConfigError) as caught:
        load_run(write_run(objective={"use": "acme_hinge"}))
    assert str(caught.value).endswith(
        ". Installed but not enabled: acme_hinge, zzz; enable one with `plugins: [acme_hinge]`"
    )


def test_a_stranger_cannot_take_the_name_of_a_built_in_plugin(install: Callable[..., None]) -> None:
    install(("ganpo_objectives", "no_such_module_at_all", "stranger"))
    plugins = load_plugins()
    assert plugins.providers["ganpo_objectives"].distribution == "ganpo"
    assert "dpo" in plugins.registry("objective")


def test_two_distributions_that_claim_one_plugin_are_both_named(install: Callable[..., None]) -> None:
    install(("acme", "acme_a", "acme-a"), ("acme", "acme_b", "acme-b"))
    with pytest.raises(PluginError, match="plugins: 'acme' is provided by both 'acme-a' and 'acme-b'; uninstall one"):
        load_plugins(["acme"])


def test_an_entry_point_that_is_no_module_is_refused(install: Callable[..., None]) -> None:
    install(("acme", "json:dumps", "acme"))
    with pytest.raises(PluginError, match=r"plugin 'acme 2\.0': its entry point is <function dumps"):
        load_plugins(["acme"])


def test_a_misspelt_plugin_is_compared_with_the_installed_ones(install: Callable[..., None]) -> None:
    install(("acme_hinge", "acme_hinge", "acme-hinge"))
    with pytest.raises(PluginError, match=r"Did you mean 'acme_hinge'\?"):
        load_plugins(["acme_hige"])


def test_naming_a_built_in_plugin_changes_nothing() -> None:
    assert load_plugins(["ganpo_objectives"]).entries() == load_plugins().entries()


# -- what is not imported ------------------------------------------------------------------------------------------------


def python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_its_config_and_its_loader_import_no_heavy_library(tmp_path: Path) -> None:
    code = """
import sys
import ganpo_core, ganpo_core.config, ganpo_core.schema
from ganpo_core.plugins import load_plugins
load_plugins().commands()
print([name for name in ("torch", "transformers", "datasets", "numpy", "accelerate") if name in sys.modules])
"""
    assert python(code, tmp_path) == "[]\n"


def test_nothing_in_the_working_folder_is_imported_unless_it_is_named(
    write_run: Callable[..., Path], run_folder: Path
) -> None:
    trap = "from pathlib import Path\nPath('sprung').write_text(__name__)\n"
    for name in ("acme_hinge", "plugins", "ganpo_plugin", "conftest", "nope"):
        (run_folder / f"{name}.py").write_text(trap, encoding="utf-8")
    write_run("plugins: [nope]\n")
    code = """
from ganpo_core.config import load_run
from ganpo_core.errors import GanpoError
try:
    load_run("run.yaml")
except GanpoError as error:
    print(error)
"""
    assert "'nope' is not installed" in python(code, run_folder)
    assert not (run_folder / "sprung").exists()


def test_every_error_is_one_a_user_can_fix() -> None:
    assert issubclass(PluginError, GanpoError)
    assert issubclass(ConfigError, GanpoError)
