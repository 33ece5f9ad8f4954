"""A run's output folder: made, locked for one run at a time, and known to be the same folder until the end."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from ganpo_core.errors import CheckpointError
from ganpo_core.folders import sweep

CHECKPOINTS = "checkpoints"
STATE = "state.json"
REQUIRED = (STATE, "policy.safetensors", "optimizer.safetensors", "adversary.safetensors", "data.safetensors")
"""The files without which a checkpoint is none."""
LOCK = ".lock"
MOUNT_ROOTS = ("/mnt", "/media", "/run/media", "/Volumes")
"""Where disks are mounted by custom: a folder missing directly below is a disk that is not there."""


class OutputFolder:
    """The folder while a run holds it; close it to let others in. A process that dies lets go by dying."""

    def __init__(self, path: Path, resume: bool) -> None:
        """Raises CheckpointError for a folder that cannot be used, is in use, or holds a run that is not resumed."""
        self.path = path
        self.note: str | None = None
        self._descriptor: int | None = None
        try:
            _check_mounts(path)
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"output_dir: {path} cannot be made: {error}") from error
        self._lock()
        try:
            self._check_contents(resume)
            sweep(path, path / CHECKPOINTS)
        except OSError as error:
            self.close()
            raise CheckpointError(f"output_dir: {path} cannot be used: {error}") from error
        except CheckpointError:
            self.close()
            raise

    @classmethod
    def of_another_process(cls, path: Path) -> OutputFolder:
        """The folder as the other processes of a run see it: the main process holds the lock."""
        folder = cls.__new__(cls)
        folder.path, folder.note, folder._descriptor = path, None, None
        return folder

    def check(self) -> None:
        """Raises CheckpointError where the folder is no longer the one that was locked: deleted, or its disk unmounted."""
        if self._descriptor is None:
            return
        try:
            here, held = (self.path / LOCK).stat(), os.fstat(self._descriptor)
            same = (here.st_dev, here.st_ino) == (held.st_dev, held.st_ino)
        except OSError:
            same = False
        if not same:
            raise CheckpointError(
                f"output_dir: {self.path} is no longer the folder that this run started in: it was moved or deleted, or "
                "its disk is gone. Bring it back, then continue with --resume"
            )

    def close(self) -> None:
        """Let other runs in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self) -> None:
        path = self.path / LOCK
        try:
            # Not truncated: until the lock is ours, the file is another's.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CheckpointError(f"output_dir: {self.path} cannot be written to: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise CheckpointError(
                    f"output_dir: {self.path} is in use by {holder}; wait for it or stop it, or choose another output_dir"
                ) from error
            self.note = f"output_dir: this file system has no locks ({error}); keep other runs out of {self.path} yourself"
            return
        self._descriptor = descriptor
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text.encode(), 0)
        except OSError as error:
            self.close()
            raise CheckpointError(f"output_dir: {self.path} cannot be written to: {error}") from error

    def _check_contents(self, resume: bool) -> None:
        held = [name for name in ("run.yaml", CHECKPOINTS, "policy") if (self.path / name).exists()]
        if held and not resume:
            raise CheckpointError(
                f"output_dir: {self.path} holds a run already ({', '.join(held)}); continue it with --resume, "
                "or choose another output_dir"
            )
        for path in sorted(self.path.iterdir()):
            if path.is_symlink():
                raise CheckpointError(
                    f"output_dir: {path} is a link; a run writes under its own folder alone. Remove the link, "
                    "or make output_dir itself the folder that it leads to"
                )


def _check_mounts(path: Path) -> None:
    """Refuse to create a folder where a disk should be."""
    for root in map(Path, MOUNT_ROOTS):
        if root in path.parents:
            disk = root / path.relative_to(root).parts[0]
            if disk != path and not disk.exists():
                raise FileNotFoundError(errno.ENOENT, "is the disk mounted? There is no", str(disk))
    for mount in _listed_mounts():
        if (mount == path or mount in path.parents) and not mount.is_mount():
            raise FileNotFoundError(errno.ENOENT, "/etc/fstab lists it, but no disk is mounted at", str(mount))


def _listed_mounts() -> list[Path]:
    try:
        lines = Path("/etc/fstab").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    places = [line.split()[1] for line in lines if len(line.split()) > 2 and not line.lstrip().startswith("#")]
    return [Path(place) for place in places if place.startswith("/") and place != "/"]


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
