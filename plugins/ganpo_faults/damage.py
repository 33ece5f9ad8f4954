"""The newest checkpoint is broken, one file at a time: the run must notice, say so, and end as if nothing had been."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from ganpo_faults.site import GAME, Site
from ganpo_faults.state import differences, final_state, last_line, newest_checkpoint
from ganpo_faults.trial import Family, Trial

Damage = Callable[[Path], None]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(bytes(content))


def _zero(path: Path) -> None:
    content = bytearray(path.read_bytes())
    length = max(1, len(content) // 20)
    start = len(content) - 2 * length
    content[start : start + length] = bytes(length)
    path.write_bytes(bytes(content))


FILE_DAMAGE: dict[str, Damage] = {"truncated": _truncate, "deleted": Path.unlink, "one bit flipped": _flip, "5 % zeroed": _zero}


def run(site: Site, trials: int) -> Iterator[Trial]:
    """Each file in each way, then whole folders that lie; `trials` cuts the list for the short form."""
    path = site.run_file(
        "damaged",
        **GAME,
        model={"path": str(site.model), "disable_dropout": False},
        training={"max_steps": 6, "save_steps": 2, "save_total_limit": None},
    )
    folder, kept = site.folder / "damaged", site.folder / "kept"
    code, text = site.ganpo("train", path, "--resume")
    if code != 0:
        yield Trial("a run that nothing happens to", False, last_line(text))
        return
    expected = final_state(folder)
    folder.rename(kept)
    files = sorted(file.name for file in newest_checkpoint(kept).iterdir())
    cases = [(f"{name} {way}", _on_file(name, damage)) for name in files for way, damage in FILE_DAMAGE.items()]
    cases += FOLDER_DAMAGE
    if trials < len(cases):
        cases = site.random.sample(cases, trials)
    for name, damage in cases:
        shutil.copytree(kept, folder)
        # Without what was exported, so that the run has to go back to its checkpoints.
        for part in ("policy", "adversary"):
            shutil.rmtree(folder / part)
        damage(newest_checkpoint(folder))
        code, text = site.ganpo("train", path, "--resume")
        said = next((line for line in text.splitlines() if "is not used" in line), "")
        wrong = f"exit {code}: {last_line(text)}" if code != 0 else differences(expected, folder)
        if not said:
            wrong = f"nothing was said; {wrong}"
        yield Trial(name, not wrong, wrong or said)
        shutil.rmtree(folder)


def _on_file(name: str, damage: Damage) -> Damage:
    return lambda folder: damage(folder / name)


def _sign(folder: Path) -> None:
    """A manifest that fits whatever is in the folder."""
    files = [path for path in folder.iterdir() if path.name != "manifest.json"]
    manifest = {path.name: [path.stat().st_size, sha256(path.read_bytes()).hexdigest()] for path in files}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _link(folder: Path) -> None:
    elsewhere = folder.parents[1] / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def _lead_outside(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    outside = folder.parent / "step-00000002" / "state.json"
    manifest["../step-00000002/state.json"] = [outside.stat().st_size, sha256(outside.read_bytes()).hexdigest()]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _omit(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["policy.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    _flip(folder / "policy.safetensors")


def _sign_nonsense(folder: Path) -> None:
    (folder / "state.json").write_text('{"step": 6}', encoding="utf-8")
    _sign(folder)


def _sign_other_weights(folder: Path) -> None:
    shutil.copy(folder / "data.safetensors", folder / "policy.safetensors")
    _sign(folder)


def _rename_older(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "step-00000002", folder)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _all(folder: Path) -> None:
    for path in sorted(folder.parent.iterdir()):
        _truncate(path / "optimizer.safetensors")


def _file_link(folder: Path) -> None:
    (folder / "policy.safetensors").rename(folder.parents[1] / "weights")
    (folder / "policy.safetensors").symlink_to(folder.parents[1] / "weights")


FOLDER_DAMAGE: list[tuple[str, Damage]] = [
    ("the folder is a link", _link),
    ("a file is a link", _file_link),
    ("the manifest leads outside", _lead_outside),
    ("the manifest omits the policy, which is damaged", _omit),
    ("state.json is nonsense, correctly signed", _sign_nonsense),
    ("the policy is another file, correctly signed", _sign_other_weights),
    ("an older checkpoint under a newer name", _rename_older),
    ("the folder is empty", _empty),
    ("every checkpoint is damaged", _all),
]

FAMILY = Family(
    name="damage",
    title="newest checkpoint truncated, deleted, bit-flipped, zeroed, each file; folders that lie",
    must="0 silent, 0 dead ends",
    peers="7 silent, 14 dead ends of 40",
    trials=100,
    run=run,
    short=2,
)
