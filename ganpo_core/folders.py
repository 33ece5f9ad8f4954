"""Folders that are complete or absent: filled aside, synced, signed with a manifest, renamed into place."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path, PurePosixPath

from ganpo_core.errors import CheckpointError

MANIFEST = "manifest.json"
ASIDE, REPLACED = ".tmp", ".old"
"""Endings of a folder that is being filled or deleted, and of one that is being replaced: what a crash leaves is swept."""
_STEP = re.compile(r"step-(\d{8,})")


def write_folder(folder: Path, write: Callable[[Path], None], needed: int) -> None:
    """Fill `folder` with `write`; `needed` is about how many bytes that takes.

    Raises CheckpointError, with whatever stood there before untouched, if it cannot.
    """
    aside, replaced = _beside(folder, ASIDE), _beside(folder, REPLACED)
    try:
        _make_parent(folder)
        for leftover in (aside, replaced):
            _remove(leftover)
        free = shutil.disk_usage(folder.parent).free
        if free < needed:
            raise OSError("the disk is too full")
        aside.mkdir()
        write(aside)
        _sign(aside)
        if folder.exists() or folder.is_symlink():
            folder.rename(replaced)
        aside.rename(folder)
        _sync(folder.parent)
        _remove(replaced)
    except Exception as error:
        # safetensors raises an exception of its own where the disk is full. A plugin's mistake is no matter of disks.
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        _restore(folder, aside, replaced)
        raise CheckpointError(
            f"{folder}: cannot be written: {_reason(error)}; it needs {needed:,} bytes, {_free(folder)} are free there. "
            "What was saved before is untouched: make room, then continue with --resume"
        ) from error


def share_folder(folder: Path, write: Callable[[Path], None], needed: int, required: Collection[str]) -> None:
    """As `write_folder`, where other runs may be writing the same: what stands there and verifies stays, whoever wrote it.

    Needs a name that says what the folder holds. What a killed process leaves beside it ends in HOST-PID.
    """
    if find_flaw(folder, required) is None:
        return
    own = _beside(folder, f".{socket.gethostname()}-{os.getpid()}")
    damaged = _beside(own, REPLACED)
    write_folder(own, write, needed)
    try:
        if folder.exists() and find_flaw(folder, required):
            folder.rename(damaged)
        # Fails where another run has put a folder there in the meantime, which is as good.
        own.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        if flaw := find_flaw(folder, required):
            raise CheckpointError(f"{folder}: cannot be put in place: {_reason(error)}; what stands there: {flaw}") from error
    finally:
        for leftover in (own, damaged):
            _remove(leftover)


def find_flaw(folder: Path, required: Collection[str] = ()) -> str | None:
    """Why a folder cannot be trusted; None if every file is as its manifest says, `required` ones among them."""
    if folder.is_symlink():
        return "it is a link"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        entries = {str(name): (int(size), str(digest)) for name, (size, digest) in manifest.items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"its manifest cannot be read ({_reason(error)})"
    if missing := [name for name in required if name not in entries]:
        return f"its manifest does not list {missing[0]}"
    try:
        for name, (size, digest) in entries.items():
            if not _is_inside(name):
                return f"its manifest names {name!r}, which is not a file of the folder"
            path = folder / name
            if any(part.is_symlink() for part in (path, *path.parents[: len(PurePosixPath(name).parts) - 1])):
                return f"{name} is a link"
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size or file_digest(path) != digest:
                return f"{name} is damaged"
    except (OSError, ValueError) as error:
        return f"{_reason(error)}"
    return None


def step_folders(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything under `root` that is named as a checkpoint, oldest first."""
    try:
        found = [(int(match[1]), path) for path in root.iterdir() if (match := _STEP.fullmatch(path.name))]
    except FileNotFoundError:
        return []
    return sorted(found)


def step_name(step: int) -> str:
    """The name of the folder of the state after `step` optimizer steps."""
    return f"step-{step:08d}"


def rotate(root: Path, step: int, limit: int | None, required: Collection[str]) -> None:
    """Delete the oldest checkpoints beyond `limit` once that of `step`, the newest, verifies.

    Those of later steps belong to a past that a damaged checkpoint undid: they are replaced when the run comes to them.
    """
    folders = [(own, path) for own, path in step_folders(root) if own <= step]
    if limit is None or len(folders) <= limit:
        return
    newest = folders[-1][1]
    flaw = find_flaw(newest, required)
    if flaw is not None:
        raise CheckpointError(f"{newest}: {flaw} right after it was written; older checkpoints are kept")
    for _, folder in folders[:-limit]:
        # Renamed first: a crash in the middle of a deletion must not leave half a checkpoint under a good name.
        _remove(_beside(folder, ASIDE))
        folder.rename(_beside(folder, ASIDE))
        _remove(_beside(folder, ASIDE))


def sweep(*parents: Path) -> None:
    """Remove what a crash left of folders that were being filled or replaced; a replaced one without successor returns."""
    for parent in parents:
        if not parent.is_dir():
            continue
        for path in sorted(parent.iterdir()):
            name = path.name.removesuffix(REPLACED)
            if path.name.endswith(REPLACED) and _is_ours(name) and not (parent / name).exists():
                path.rename(parent / name)
            elif path.name.endswith((ASIDE, REPLACED)) and _is_ours(path.name.removesuffix(ASIDE).removesuffix(REPLACED)):
                _remove(path)


def write_text(path: Path, text: str) -> None:
    """Write a file that is whole or as it was."""
    aside = _beside(path, ASIDE)
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _sync(path.parent)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _sign(folder: Path) -> None:
    """Sync every file, then write the manifest, then sync that and the folder."""
    paths = sorted(folder.rglob("*"))
    for path in paths:
        _sync(path)
    files = [path for path in paths if path.is_file()]
    manifest = {path.relative_to(folder).as_posix(): [path.stat().st_size, file_digest(path)] for path in files}
    signed = folder / MANIFEST
    signed.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(signed)
    _sync(folder)


def _make_parent(folder: Path) -> None:
    """The folder above, one level of it: what lies above that is the run's own folder and must be there."""
    if not folder.parent.is_dir():
        folder.parent.mkdir()
        _sync(folder.parent.parent)


def _restore(folder: Path, aside: Path, replaced: Path) -> None:
    """After a failure: give the space back, and the folder that was being replaced."""
    shutil.rmtree(aside, ignore_errors=True)
    if replaced.exists() and not folder.exists():
        replaced.rename(folder)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _is_ours(name: str) -> bool:
    return _STEP.fullmatch(name) is not None or name in ("policy", "adversary", "metrics.jsonl", "run.yaml", "plugins.json")


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _free(folder: Path) -> str:
    for parent in folder.parents:
        if parent.is_dir():
            return f"{shutil.disk_usage(parent).free:,}"
    return "no"


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
