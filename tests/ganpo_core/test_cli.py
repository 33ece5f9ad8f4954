"""The command line: what it prints, where, and how it fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ganpo_core.cli.main import main

GAME = """\
latents: {use: hidden_state}
discriminator: {use: mlp}
divergence: {use: ragan}
adversary: {weight: 0.5, preset: paper}
"""


@pytest.fixture
def ganpo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process; gives exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ganpo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


Ganpo = Callable[..., tuple[int, str, str]]


def module(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ganpo_core", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


# -- failing -------------------------------------------------------------------------------------------------------------


def test_mistakes_go_to_standard_error_one_unwrapped_line_each_without_a_traceback(
    write_run: Callable[..., Path], run_folder: Path
) -> None:
    write_run(whole="model: {path: ./nope}\ndata: {path: pairs.jsonl}\nobjective: {use: dpo, betta: 1}\noutput_dir: out\n")
    done = module("check", "run.yaml", cwd=run_folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "error: run.yaml:3: objective.betta: unknown option. Did you mean 'beta'?",
        f"error: run.yaml:1: model.path: no model folder at './nope' ({run_folder}/nope); "
        "paths are relative to the run file",
    ]


def test_a_wrong_command_fails_without_boxes(run_folder: Path) -> None:
    done = module("chekc", cwd=run_folder)
    assert done.returncode == 2
    assert "No such command 'chekc'" in done.stderr
    assert not re.search(r"[─-╿]", done.stderr + done.stdout)
    assert "Traceback" not in done.stderr


def test_an_error_that_spans_lines_is_printed_as_one(ganpo: Ganpo, run_folder: Path) -> None:
    (run_folder / "bad.py").write_text("raise RuntimeError('one\\n  two')\n", encoding="utf-8")
    code, out, err = ganpo("schema", "--plugin", run_folder / "bad.py")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: plugin '{run_folder}/bad.py' does not import: RuntimeError: one two, line 1 (bad sha256:")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["check", "train", "plugins"])
def test_a_missing_run_file_is_named(ganpo: Ganpo, tmp_path: Path, command: str) -> None:
    code, _, err = ganpo(command, tmp_path / "nope.yaml")
    assert (code, err) == (1, f"error: {tmp_path}/nope.yaml: no such file\n")


def test_training_refuses_a_mistaken_file(ganpo: Ganpo, write_run: Callable[..., Path]) -> None:
    code, _, err = ganpo("train", write_run(objective={"use": "simp"}))
    assert code == 1
    assert err.startswith("error: run.yaml:6: objective 'simp' is not known. Did you mean 'simpo'? Known: alpha_po, ")


# -- check ---------------------------------------------------------------------------------------------------------------


def test_check_prints_each_value_with_its_origin(ganpo: Ganpo, write_run: Callable[..., Path], run_folder: Path) -> None:
    code, out, err = ganpo("check", write_run(GAME), "objective.beta=0.2")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: re.split(r" {2,}", line)[1:] for line in out.splitlines()}
    assert rows["objective.use"] == ["dpo", "run.yaml:3"]
    assert rows["objective.beta"] == ["0.2", "command line"]
    assert rows["model.path"] == [f"{run_folder}/model", "run.yaml:1"]
    assert rows["model.revision"] == ["null", "default"]
    assert rows["adversary.weight"] == ["0.5", "run.yaml:8"]
    assert rows["adversary.critic_scale"] == ["1.0", "preset paper"]
    assert rows["training.gradient_checkpointing"] == ["false", "default"]
    assert all(len(row) == 2 for row in rows.values())


def test_check_prints_notes(ganpo: Ganpo, write_run: Callable[..., Path]) -> None:
    _, out, _ = ganpo("check", write_run(GAME), "adversary.weight=0")
    assert out.splitlines()[-1].startswith("adversary 'latent': weight is 0, so it is not built")


def test_check_reads_neither_weights_nor_rows_and_imports_no_transformers(
    write_run: Callable[..., Path], run_folder: Path
) -> None:
    """The model folder holds an empty config and the data one pair, so that reading either would fail."""
    write_run(GAME)
    code = """
import sys
sys.argv = ["ganpo", "check", "run.yaml"]
from ganpo_core.cli import main
try:
    main()
except SystemExit as stopped:
    heavy = [name for name in ("transformers", "datasets", "accelerate", "peft") if name in sys.modules]
    print(stopped.code, heavy, file=sys.stderr)
"""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=run_folder, check=False)
    assert done.stderr == "0 []\n"
    assert time.perf_counter() - start < 15


# -- the rest ------------------------------------------------------------------------------------------------------------


def test_help_answers_at_once(run_folder: Path) -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = module("--help", cwd=run_folder)
        seconds.append(time.perf_counter() - start)
    assert done.returncode == 0
    for command in ("train", "check", "plugins", "describe", "schema", "data"):
        assert f"  {command} " in done.stdout
    assert min(seconds) < 2


def test_plugins_as_json_has_exactly_these_fields(ganpo: Ganpo) -> None:
    code, out, _ = ganpo("plugins", "--json")
    rows = json.loads(out)
    assert code == 0
    assert all(set(row) == {"kind", "name", "plugin", "distribution", "version", "enabled"} for row in rows)
    (dpo,) = [row for row in rows if row["name"] == "dpo"]
    assert {key: dpo[key] for key in ("kind", "plugin", "distribution", "enabled")} == {
        "kind": "objective",
        "plugin": "ganpo_objectives",
        "distribution": "ganpo",
        "enabled": True,
    }


def test_plugins_of_a_run_file_includes_what_it_names(
    ganpo: Ganpo, write_run: Callable[..., Path], run_folder: Path, root: Path
) -> None:
    text = (root / "examples" / "acme_hinge" / "acme_hinge.py").read_text(encoding="utf-8")
    (run_folder / "acme_hinge.py").write_text(text, encoding="utf-8")
    _, out, _ = ganpo("plugins", write_run("plugins: [./acme_hinge.py]\n"))
    assert re.search(r"^objective +acme_hinge +acme_hinge +sha256:[0-9a-f]{12}$", out, re.MULTILINE)
    code, _, err = ganpo("plugins", write_run("plugins: acme\n"))
    assert code == 1
    assert err == "error: run.yaml:5: plugins: expected a list of names or ./files.py, got 'acme'\n"


def test_describe_prints_documentation_options_provider_and_source(ganpo: Ganpo, root: Path) -> None:
    code, out, _ = ganpo("describe", "objective", "dpo")
    assert code == 0
    assert out.startswith("objective dpo\n\nDirect preference optimization")
    assert "\nOptions\n  beta: number > 0 = 0.1\n      Reward per nat" in out
    assert "Provided by ganpo_objectives " in out
    assert str(root / "plugins" / "ganpo_objectives" / "dpo.py") in out


def test_describe_takes_the_name_of_a_section_too(ganpo: Ganpo) -> None:
    _, out, _ = ganpo("describe", "latents", "hidden_state")
    assert out.startswith("latent_extractor hidden_state\n")


def test_describe_shows_a_plugin_file(ganpo: Ganpo, root: Path) -> None:
    path = root / "examples" / "acme_hinge" / "acme_hinge.py"
    _, out, _ = ganpo("describe", "objective", "acme_hinge", "--plugin", path)
    assert "  margin: number > 0 = 1\n      Reward difference beyond which a pair is done.\n" in out
    assert out.endswith(f"Source      {path}\n")
    assert "(a file)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("objectiv", "dpo"), "error: kind 'objectiv' is not known. Did you mean 'objective'? Known: "),
        (("objective", "pdo"), "error: objective 'pdo' is not known. Did you mean 'dpo'? Known: alpha_po, "),
    ],
)
def test_describe_says_what_there_is(ganpo: Ganpo, arguments: tuple[str, str], message: str) -> None:
    code, _, err = ganpo("describe", *arguments)
    assert code == 1
    assert err.startswith(message)


def test_schema_is_json(ganpo: Ganpo) -> None:
    code, out, _ = ganpo("schema")
    assert code == 0
    assert json.loads(out)["title"] == "ganpo run file"


def test_a_device_that_is_full_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(sys.modules["ganpo_core.cli.main"], "make_app", lambda: fill)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: the device ran out of memory: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "`ganpo plan RUN` says what a run needs, and what lowers it",
    ]
