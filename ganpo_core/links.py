"""All that a run writes stays under its output folder: no link in it leads out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ganpo_core.errors import CheckpointError

DEPTH = 3
"""Levels of the output folder in which a run writes: itself, `checkpoints/`, and one of them."""


def refuse_links(folder: Path) -> None:
    """Raises CheckpointError for a symbolic link inside of an output folder that exists.

    The folder itself may be one: it is resolved before anything is written, and all goes to where it leads.
    """
    linked = next(_links(folder, DEPTH), None)
    if linked is not None:
        raise CheckpointError(
            f"output_dir: {linked} is a symbolic link to {linked.readlink()}; writing through it would leave the folder. "
            "Remove it, or choose another output_dir"
        )


def _links(folder: Path, depth: int) -> Iterator[Path]:
    if depth == 0 or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            yield path
        elif path.is_dir():
            yield from _links(path, depth - 1)
