"""`ganpo checkpoints`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer


def checkpoints(
    run_dir: Annotated[Path, typer.Argument(help="The output_dir of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """List a run's checkpoints and verify every file of each; exits 1 if none can be resumed from."""
    from ganpo_core.errors import CheckpointError
    from ganpo_core.folders import find_flaw, step_folders
    from ganpo_core.output import CHECKPOINTS, REQUIRED

    if not run_dir.is_dir():
        raise CheckpointError(f"{run_dir}: is no folder; give the output_dir of a run")
    rows: list[dict[str, Any]] = []
    for step, folder in reversed(step_folders(run_dir / CHECKPOINTS)):
        flaw = find_flaw(folder, REQUIRED)
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        rows.append(
            {
                "step": step,
                "folder": str(folder),
                "bytes": sum(path.stat().st_size for path in files),
                "written": datetime.fromtimestamp(folder.lstat().st_mtime).isoformat(sep=" ", timespec="seconds"),
                "flaw": flaw,
                "chosen": flaw is None and not any(row["chosen"] for row in rows),
            }
        )
    if as_json:
        print(json.dumps(rows, indent=1))
    for row in () if as_json else rows:
        verdict = f"not used: {row['flaw']}" if row["flaw"] else "verified" + (", resumed from next" if row["chosen"] else "")
        print(f"{Path(row['folder']).name}  {row['written']}  {row['bytes']:>15,} bytes  {verdict}")
    if not any(row["chosen"] for row in rows):
        raise CheckpointError(f"{run_dir}: no checkpoint to resume from; --resume starts from the beginning")
