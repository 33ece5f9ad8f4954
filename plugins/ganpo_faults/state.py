"""What a run ended with, to be compared bit for bit, and copies of it to damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ganpo_faults.site import Process, Site

NOT_STATE = ("manifest.json",)


def final_state(folder: Path) -> dict[str, Any]:
    """Policy, critics, both optimizers, means, schedules, generators and metrics at the end, and what is exported.

    Raises FileNotFoundError for a run that has no checkpoint.
    """
    newest = newest_checkpoint(folder)
    files = sorted(path for path in newest.iterdir() if path.suffix != ".json")
    parts: dict[str, Any] = {f"checkpoint {path.name}": path.read_bytes() for path in files}
    state = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    parts |= {f"state {key}": value for key, value in state.items()}
    for name in ("policy", "adversary"):
        for path in sorted((folder / name).rglob("*")):
            if path.is_file() and path.name not in NOT_STATE:
                parts[str(path.relative_to(folder))] = path.read_bytes()
    parts["metrics.jsonl"] = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return parts


def newest_checkpoint(folder: Path) -> Path:
    """The folder with the highest step."""
    found = sorted(path for path in (folder / "checkpoints").glob("step-*") if path.suffix == "")
    if not found:
        raise FileNotFoundError(f"{folder} has no checkpoint")
    return found[-1]


def differences(expected: dict[str, Any], folder: Path) -> str:
    """What of a finished run is not what it should be, in words; empty where all of it is."""
    try:
        found = final_state(folder)
    except (OSError, ValueError) as error:
        return str(error)
    names = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    return f"differ: {', '.join(names)}" if names else ""


def last_line(text: str) -> str:
    """The last line that a run printed, where its reason stands."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "(nothing printed)"


def finish(site: Site, process: Process, timeout: float = 120.0) -> int | None:
    """A process's exit code; one that does not end is killed, and None."""
    code = process.wait(timeout)
    if code is None:
        process.kill()
    return code
