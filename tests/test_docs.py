"""The documentation says what the code does: trees, tables, signatures, links, and every example runs."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import generate
from ganpo_core import GanpoError, StepReport, hookspecs, testing
from ganpo_core.config import RunConfig, load_run
from ganpo_core.plugins import load_plugins

ROOT = Path(__file__).parents[1]
PLUGIN_GUIDE = ROOT / "docs" / "plugins.md"
VISION_GUIDE = ROOT / "docs" / "vision.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "plugins" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_OURS = {"build", "dist", "runs", "__pycache__"}
SECTIONS = {"plugins", "seed", "model", "data", "objective", "latents", "discriminator", "divergence", "adversary"}
SECTIONS |= {"adversaries", "training", "output_dir"}


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every fenced block of a language."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield text[: found.start()].count("\n") + 1, found[1]


def named(block: str) -> str | None:
    """The file name on the first line of a block that is a whole file."""
    found = re.match(r"# (\w+\.py)\n", block)
    return found[1] if found else None


def examples(language: str, wanted: bool | None = None) -> list[Any]:
    """Every block of every page as a test case; with `wanted`, those that are (or are not) whole plugin files."""
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}:{line}")
        for page in PAGES
        for line, block in blocks(page, language)
        if wanted is None or (named(block) is not None) == wanted
    ]


@pytest.fixture(scope="module")
def plugin_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every plugin file that the guides show."""
    folder = tmp_path_factory.mktemp("plugin_files")
    for _, block in (*blocks(PLUGIN_GUIDE, "python"), *blocks(VISION_GUIDE, "python")):
        if name := named(block):
            (folder / name).write_text(block, encoding="utf-8")
    return folder


# -- the README's tree ---------------------------------------------------------------------------------------------------


def tree() -> dict[str, str]:
    """path -> caption of the README's tree."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.partition("```\nganpo/\n")[2].partition("```")[0].splitlines()
    assert lines, "README.md holds no tree that begins with `ganpo/`"
    captions: dict[str, str] = {}
    parents: list[str] = []
    for line in lines:
        found = re.match(r"((?:│   |    )*)(?:├── |└── )(\S+)\s*(.*)", line)
        if not found:
            assert not line.strip(" │"), f"not a line of a tree: {line!r}"
            continue
        depth = len(found[1]) // 4
        parents = [*parents[:depth], found[2].rstrip("/")]
        for name in found[2].rstrip(",").split(","):
            captions["/".join([*parents[:depth], name.rstrip("/")])] = found[3]
    return captions


def folders(path: Path) -> list[str]:
    """The folders in `path` that belong to the project, relative to the root."""
    found = [child for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")]
    ours = [child for child in found if child.name not in NOT_OURS and not child.name.endswith(".egg-info")]
    return [child.relative_to(ROOT).as_posix() for child in ours]


def test_every_path_of_the_readme_tree_exists_and_has_a_caption() -> None:
    for path, caption in tree().items():
        assert (ROOT / path).exists(), f"README.md's tree names {path}, which does not exist"
        assert caption, f"README.md's tree gives {path} no caption"


@pytest.mark.parametrize("parent", [".", "ganpo_core", "plugins"])
def test_every_folder_is_in_the_readme_tree(parent: str) -> None:
    missing = set(folders(ROOT / parent)) - set(tree())
    assert not missing, f"README.md's tree lacks {sorted(missing)}"


def test_every_module_of_the_core_is_in_the_readme_tree() -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ganpo_core").glob("*.py")}
    assert not modules - set(tree())


# -- generated tables ----------------------------------------------------------------------------------------------------


def test_generated_tables_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_table_is_named_and_left_alone_by_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: section lora -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    assert generate.main(["--check"]) == 1
    assert "page.md: stale" in capsys.readouterr().out
    assert "old" in page.read_text(encoding="utf-8")
    assert generate.main([]) == 0
    assert "| `alpha` | number > 0 | `32` |" in page.read_text(encoding="utf-8")
    assert generate.main(["--check"]) == 0


def test_every_built_in_component_is_on_one_of_three_pages() -> None:
    pages = (ROOT / "docs" / name for name in ("configuration.md", "objectives.md", "evaluation.md"))
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    titles = [f"#### {kind.replace('_', ' ')} `{name}`" for kind, name, _ in load_plugins().entries()]
    assert titles
    assert not [title for title in titles if title not in text]


# -- links ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(found), f"{page.name} links to {target}; {found.name} has no such heading"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


# -- hooks ---------------------------------------------------------------------------------------------------------------


def test_hook_signatures_in_the_guide_are_those_of_the_hookspecs() -> None:
    shown = {
        node.name: ast.unparse(node).removesuffix("...").strip().removesuffix(":").removeprefix("def ")
        for _, block in blocks(PLUGIN_GUIDE, "python")
        if named(block) is None
        for node in ast.parse(block).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("test_")
    }
    hooks = {
        name: f"{name}{inspect.signature(hook)}".replace("'", "")
        for name, hook in vars(hookspecs).items()
        if name.startswith("ganpo_")
    }
    assert shown == hooks


# -- code ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", examples("python", wanted=True))
def test_a_plugin_file_in_the_docs_loads_and_conforms(block: str, plugin_files: Path) -> None:
    name = named(block)
    assert name is not None
    plugins = load_plugins([f"./{name}"], plugin_files)
    mine = [(kind, entry) for kind, _, entry in plugins.entries() if entry.provider.plugin == Path(name).stem]
    for kind, entry in mine:
        instance = entry.component()
        testing.verify(instance)
        assert inspect.getdoc(entry.component), f"{kind} of {name} has no docstring"
        assert "|  |" not in generate.options(entry.component), f"{kind} of {name} has an option without a text"
    if not mine:
        plugins.step_finished(StepReport(1, 10, {"rewards/margins": 0.1}))
        added = set(plugins.commands()) - set(load_plugins().commands())
        assert added or hasattr(plugins.manager.get_plugin(Path(name).stem), "ganpo_step_finished")


@pytest.mark.parametrize("block", examples("python", wanted=False))
def test_other_code_in_the_docs_runs(block: str) -> None:
    exec(compile(block, "docs", "exec"), {"__name__": "docs_example"})


# -- run files -----------------------------------------------------------------------------------------------------------


def resolve(
    written: Mapping[str, Any], plugin_files: Path, tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> RunConfig:
    """A run file, or some sections of one, resolved with the tests' own model, data and plugins in place of its paths."""
    run: dict[str, Any] = {"model": {}, "data": {}, "objective": {"use": "dpo"}, **written}
    run["model"] = {**run["model"], "path": str(tiny_model)}
    if "reference" in run["model"]:
        run["model"]["reference"] = str(tiny_model)
    data = dict(run["data"])
    if "sources" in data:
        data["sources"] = [{**source, "path": str(tiny_pairs)} for source in data["sources"]]
    else:
        data["path"] = str(tiny_pairs)
    if "eval_path" in data:
        data["eval_path"] = str(tiny_pairs)
    run["data"] = data
    run["output_dir"] = str(tmp_path / "out")
    own = {"acme_hinge": ROOT / "examples" / "acme_hinge" / "acme_hinge.py"}
    run["plugins"] = [str(own.get(name) or plugin_files / name) for name in run.get("plugins", [])]
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run), encoding="utf-8")
    return load_run(path)


@pytest.mark.parametrize("block", examples("yaml"))
def test_a_run_file_in_the_docs_resolves(
    block: str, plugin_files: Path, tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    # Read as the command line reads it, so that `5e-7` is a number here too.
    from ganpo_core.config.document import parse_document

    written = parse_document(block, "docs").data
    assert set(written) <= SECTIONS
    config = resolve(written, plugin_files, tiny_model, tiny_pairs, tmp_path)
    assert set(written) <= set(config.resolved)


def test_the_messages_in_the_guide_are_what_a_user_reads(
    plugin_files: Path, tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    """The rows of the guide's table that a run file can bring about, word for word."""
    guide = PLUGIN_GUIDE.read_text(encoding="utf-8")
    game = {"latents": {"use": "hidden_state"}, "discriminator": {"use": "transformer"}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"objective": {"use": "simp"}}, "objective 'simp' is not known. Did you mean 'simpo'? Known: alpha_po, "),
        ({"objective": {"use": "dpo", "betta": 1.0}}, "objective.betta: unknown option. Did you mean 'beta'?"),
        ({"objective": {"use": "dpo", "beta": -1.0}}, "objective.beta: must be greater than 0, got -1"),
        (
            {**game, "divergence": {"use": "wasserstein", "constraint": "spectral_norm"}},
            "divergence 'wasserstein' with constraint: spectral_norm needs a Lipschitz discriminator; 'transformer' is not",
        ),
    ]
    for written, message in cases:
        with pytest.raises(GanpoError) as caught:
            resolve(written, plugin_files, tiny_model, tiny_pairs, tmp_path)
        assert message in str(caught.value)
        assert message in guide
