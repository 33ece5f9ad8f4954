"""One run at a time in one folder that stays the same folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ganpo_core import output
from ganpo_core.errors import CheckpointError
from ganpo_core.output import OutputFolder

HOLD = "import sys\nfrom pathlib import Path\nfrom ganpo_core.output import OutputFolder\n"
HOLD += "held = OutputFolder(Path(sys.argv[1]), True)\nprint('held', flush=True)\nsys.stdin.read()\n"


def test_a_second_run_is_refused_by_name_until_the_first_lets_go(tmp_path: Path) -> None:
    first = OutputFolder(tmp_path / "out", resume=False)
    before = (tmp_path / "out" / ".lock").read_bytes()
    with pytest.raises(CheckpointError, match=rf"is in use by process {os.getpid()} on .*, since \d{{4}}"):
        OutputFolder(tmp_path / "out", resume=True)
    assert (tmp_path / "out" / ".lock").read_bytes() == before
    first.close()
    OutputFolder(tmp_path / "out", resume=True).close()


def test_a_dead_holder_is_no_obstacle(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"in use by process {holder.pid} on"):
            OutputFolder(tmp_path, resume=True)
        holder.send_signal(signal.SIGKILL)
    OutputFolder(tmp_path, resume=True).close()


def test_a_lock_file_of_nonsense_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("{ not json")
    held = OutputFolder(tmp_path, resume=True)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    held.close()


def test_a_refused_folder_is_let_go_of(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("")
    with pytest.raises(CheckpointError, match=r"holds a run already \(run\.yaml\).*--resume"):
        OutputFolder(tmp_path, resume=False)
    OutputFolder(tmp_path, resume=True).close()


@pytest.mark.parametrize("name", ["checkpoints", "policy", "adversary"])
def test_a_link_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{name} is a link; a run writes under its own folder alone"):
        OutputFolder(tmp_path / "out", resume=True)


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match="cannot be written to"):
        OutputFolder(tmp_path, resume=True)
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_folder_that_was_moved_or_made_anew_is_noticed(tmp_path: Path) -> None:
    held = OutputFolder(tmp_path / "out", resume=False)
    held.check()
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="no longer the folder that this run started in"):
        held.check()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").write_text("")
    with pytest.raises(CheckpointError, match="no longer the folder"):
        held.check()
    held.close()


def test_where_a_disk_should_be_no_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MOUNT_ROOTS", (str(tmp_path / "mnt"),))
    (tmp_path / "mnt").mkdir()
    with pytest.raises(CheckpointError, match=r"output_dir: .* cannot be made: .*is the disk mounted\? There is no: .*mnt/data"):
        OutputFolder(tmp_path / "mnt" / "data" / "runs" / "a", resume=False)
    assert not list((tmp_path / "mnt").iterdir())
    (tmp_path / "mnt" / "data").mkdir()
    OutputFolder(tmp_path / "mnt" / "data" / "runs" / "a", resume=False).close()


def test_a_disk_of_fstab_that_is_not_mounted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_listed_mounts", lambda: [tmp_path / "data"])
    with pytest.raises(CheckpointError, match=r"fstab lists it, but no disk is mounted at"):
        OutputFolder(tmp_path / "data" / "out", resume=False)


def test_leftovers_of_a_crash_are_swept(tmp_path: Path) -> None:
    for name in ("checkpoints/step-00000004.tmp", "policy.tmp"):
        (tmp_path / name).mkdir(parents=True)
    OutputFolder(tmp_path, resume=True).close()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "checkpoints"]
