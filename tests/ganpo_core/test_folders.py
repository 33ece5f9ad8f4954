"""Folders that are complete or absent, at every moment at which a process can die."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from ganpo_core import folders
from ganpo_core.errors import CheckpointError
from ganpo_core.folders import find_flaw, rotate, share_folder, step_folders, step_name, sweep, write_folder, write_text


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs, no handler either."""


def fill(**files: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, text in files.items():
            (folder / name).write_text(text)

    return write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of checkpoints of a run's folder that exists."""
    return tmp_path / "checkpoints"


def test_a_folder_is_signed_with_sizes_and_digests(root: Path) -> None:
    write_folder(root / "step-00000001", fill(a="one", b="two"), 6)
    manifest = json.loads((root / "step-00000001" / "manifest.json").read_text())
    assert manifest == {"a": [3, sha256(b"one").hexdigest()], "b": [3, sha256(b"two").hexdigest()]}
    assert find_flaw(root / "step-00000001", ["a"]) is None
    assert not list(root.glob("*.tmp"))


@pytest.mark.parametrize("moment", range(40))
def test_at_every_moment_a_complete_folder_stands(moment: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at the n-th call that touches the disk; after a sweep the old or the new folder stands, and verifies."""
    folder = root / "step-00000001"
    write_folder(folder, fill(a="old"), 3)
    calls = iter(range(1000))

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if next(calls) == moment:
                raise Killed
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        for name in ("rename", "mkdir", "write_text", "unlink"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        try:
            write_folder(folder, fill(a="new", b="more"), 7)
            finished = True
        except Killed:
            finished = False
    sweep(root)
    assert find_flaw(folder, ["a"]) is None
    assert (folder / "a").read_text() == "new" if finished else (folder / "a").read_text() in ("old", "new")
    assert [path.name for path in root.iterdir()] == ["step-00000001"]


def test_a_write_that_fails_gives_its_space_back_and_names_the_bytes(root: Path) -> None:
    folder = root / "step-00000001"
    write_folder(folder, fill(a="old"), 3)

    def write(aside: Path) -> None:
        (aside / "a").write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match=r"No space left on device; it needs 1,234 bytes, [\d,]+ are free .* --resume"):
        write_folder(folder, write, 1234)
    assert (folder / "a").read_text() == "old"
    assert find_flaw(folder) is None
    assert not list(root.glob("*.tmp"))


def test_too_little_room_is_seen_before_anything_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="the disk is too full; it needs 2 bytes, 1 are free"):
        write_folder(root / "step-00000001", lambda aside: pytest.fail("was written"), 2)
    assert not list(root.iterdir())


def test_a_mistake_in_what_writes_is_not_called_a_full_disk(root: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_folder(root / "step-00000001", lambda aside: print(1 // 0), 2)


def test_the_run_folder_itself_is_never_made_anew(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        write_folder(tmp_path / "gone" / "checkpoints" / "step-00000001", fill(a="x"), 1)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        ("/etc/passwd", "names '/etc/passwd', which is not a file of the folder"),
        ("../other/a", "names '../other/a', which is not a file of the folder"),
        ("", "which is not a file of the folder"),
        ("a/../../x", "which is not a file of the folder"),
    ],
)
def test_a_manifest_that_leads_outside_is_a_flaw(name: str, flaw: str, root: Path) -> None:
    write_folder(root / "step-00000001", fill(a="one"), 3)
    (root / "step-00000001" / "manifest.json").write_text(json.dumps({name: [0, sha256(b"").hexdigest()]}))
    assert flaw in str(find_flaw(root / "step-00000001"))


@pytest.mark.parametrize("text", ["", "[]", "3", '{"a": 3}', '{"a": ["x", "y"]}', '{"a": [1, 2, 3]}', "[" * 9000])
def test_a_malformed_manifest_is_a_flaw_and_no_crash(text: str, root: Path) -> None:
    write_folder(root / "step-00000001", fill(a="one"), 3)
    (root / "step-00000001" / "manifest.json").write_text(text)
    assert find_flaw(root / "step-00000001", ["a"]) is not None


def test_links_are_flaws(root: Path) -> None:
    write_folder(root / "step-00000001", fill(a="one"), 3)
    (root / "step-00000002").symlink_to(root / "step-00000001")
    assert find_flaw(root / "step-00000002") == "it is a link"
    (root / "step-00000001" / "a").rename(root / "a")
    (root / "step-00000001" / "a").symlink_to(root / "a")
    assert find_flaw(root / "step-00000001") == "a is a link"


def test_steps_are_ordered_as_numbers_and_nothing_else_counts(root: Path) -> None:
    for name in ("step-00000010", "step-00000009", "step-100000000", "step-abcdefgh", "step-00000003.tmp", "notes"):
        (root / name).mkdir(parents=True)
    assert [step for step, _ in step_folders(root)] == [9, 10, 100000000]
    assert step_name(100000000) == "step-100000000"
    assert step_folders(root / "nowhere") == []


def test_rotation_keeps_the_newest_and_leaves_an_undone_past_alone(root: Path) -> None:
    """A damaged step 8 was passed over; step 5 is written; two are kept: 4 and 5, not the damaged 8."""
    for step in (2, 4, 5, 8):
        write_folder(root / step_name(step), fill(a="one"), 3)
    (root / "step-00000008" / "a").write_text("bad")
    rotate(root, 5, 2, ["a"])
    assert [step for step, _ in step_folders(root)] == [4, 5, 8]


def test_rotation_deletes_nothing_when_the_new_one_does_not_verify(root: Path) -> None:
    for step in (1, 2, 3):
        write_folder(root / step_name(step), fill(a="one"), 3)
    (root / "step-00000003" / "a").write_text("bad")
    with pytest.raises(CheckpointError, match="a is damaged right after it was written; older checkpoints are kept"):
        rotate(root, 3, 1, ["a"])
    assert [step for step, _ in step_folders(root)] == [1, 2, 3]


def test_a_sweep_takes_only_what_a_crash_leaves(root: Path) -> None:
    for name in ("step-00000001.tmp", "policy.tmp", "step-00000002.old", "step-00000002", "mine.tmp", "step-00000003.old"):
        (root / name).mkdir(parents=True)
    sweep(root, root / "nowhere")
    assert sorted(path.name for path in root.iterdir()) == ["mine.tmp", "step-00000002", "step-00000003"]


def test_a_text_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "run.yaml", "old")

    def fail(descriptor: int) -> None:
        raise Killed

    monkeypatch.setattr(folders.os, "fsync", fail)
    with pytest.raises(Killed):
        write_text(tmp_path / "run.yaml", "new")
    assert (tmp_path / "run.yaml").read_text() == "old"


def test_a_shared_folder_that_verifies_stays_whoever_wrote_it(root: Path) -> None:
    folder = root / "part"

    def write(aside: Path) -> None:
        # Another run is faster.
        share_folder_of_another(folder)
        (aside / "a").write_text("mine")

    share_folder(folder, write, 1, ("a",))
    assert (folder / "a").read_text() == "theirs" and find_flaw(folder, ("a",)) is None
    share_folder(folder, lambda aside: pytest.fail("written again"), 1, ("a",))
    (folder / "a").write_text("damaged")
    share_folder(folder, fill(a="mine"), 1, ("a",))
    assert (folder / "a").read_text() == "mine" and find_flaw(folder, ("a",)) is None
    assert [path.name for path in root.iterdir() if path.name.startswith("part")] == ["part"]


def share_folder_of_another(folder: Path) -> None:
    write_folder(folder.with_name("theirs"), fill(a="theirs"), 1)
    folder.with_name("theirs").rename(folder)
