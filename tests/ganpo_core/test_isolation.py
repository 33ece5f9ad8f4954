"""Nothing is imported from the working folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAPS = ("yaml", "torch", "pluggy", "pydantic", "typer", "annotated_types", "numpy", "ganpo_objectives", "sitecustomize")
TRAP = "from pathlib import Path\nPath('sprung').write_text(__name__)\n"


def run(folder: Path, *command: str, safe: bool = False) -> subprocess.CompletedProcess[str]:
    for name in TRAPS:
        (folder / f"{name}.py").write_text(TRAP, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    environment |= {"PYTHONSAFEPATH": "1"} if safe else {}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False, env=environment, timeout=120
    )


def test_python_m_imports_nothing_from_the_working_folder(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "ganpo_core", "describe", "objective", "dpo")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sprung").exists()


def test_a_script_of_the_user_keeps_its_own_folder(tmp_path: Path) -> None:
    """`python script.py` that imports ganpo_core beside modules of its own is none of our business."""
    (tmp_path / "mine.py").write_text("value = 7\n", encoding="utf-8")
    (tmp_path / "script.py").write_text("import ganpo_core, mine\nprint(mine.value)\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "7\n"


def test_a_package_of_the_user_that_is_run_as_a_module_keeps_its_folder(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "__init__.py").write_text("import ganpo_core\nimport beside\n", encoding="utf-8")
    (tmp_path / "acme" / "__main__.py").write_text("print(acme.beside.value)\n".replace("acme.", "", 1), encoding="utf-8")
    (tmp_path / "acme" / "__main__.py").write_text("import beside\nprint(beside.value)\n", encoding="utf-8")
    (tmp_path / "beside.py").write_text("value = 8\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "acme"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "8\n", done.stderr


@pytest.mark.parametrize("name", ["ganpo_core", "runpy"])
def test_a_safe_path_covers_also_what_python_itself_looks_up(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text(TRAP, encoding="utf-8")
    done = run(tmp_path, "-m", "ganpo_core", "--help", safe=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sprung").exists()
