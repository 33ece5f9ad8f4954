"""Credentials in the environment, in URLs and in what plugins raise: in no file, log, tracker setting or message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ganpo_faults.site import GAME, Site
from ganpo_faults.trial import Family, Trial

HUB, TRACKER, URL, QUERY = "hf_CANARYcanary0123456789", "CANARYtracker01234567", "CANARYpassword", "CANARYquery"
CANARY = "canary"
"""Part of every secret, in one case of letters or another."""
ENVIRONMENT = {"HF_TOKEN": HUB, "WANDB_API_KEY": TRACKER, "MY_SERVICE_PASSWORD": TRACKER}
ADDRESS = f"https://user:{URL}@host/pairs.jsonl?token={QUERY}"
PLUGIN = """\
import os
from ganpo_core import hookimpl

@hookimpl
def ganpo_step_finished(report):
    raise RuntimeError("401 for https://me:" + os.environ["HF_TOKEN"] + "@host with " + os.environ["WANDB_API_KEY"])
"""
CRASH = """\
import os
from ganpo_core import component, hookimpl
import ganpo_core.step

def crash(*arguments, **options):
    raise LookupError("Authorization: Bearer " + os.environ["HF_TOKEN"])

ganpo_core.step.response_pass = crash
"""
"""A mistake inside of the core itself, which ends in a traceback."""


def run(site: Site, trials: int) -> Iterator[Trial]:
    """Commands that see secrets, then a search through everything they left."""
    (site.folder / "talks.py").write_text(PLUGIN, encoding="utf-8")
    (site.folder / "crashes.py").write_text(CRASH, encoding="utf-8")
    good = site.run_file("good", **GAME, training={"max_steps": 2, "save_steps": 1, "report_to": ["tensorboard"]})
    cases: Mapping[str, tuple[object, ...]] = {
        "a run, its tracker and its checkpoints": ("train", good, f"model.revision={ADDRESS}"),
        "the values of a run file": ("check", good, f"model.revision={HUB}", f"output_dir={site.folder / 'other'}"),
        "data at an address": ("train", good, f"data.path={ADDRESS}"),
        "held-out data at an address": ("train", good, f"data.eval_path={ADDRESS}"),
        "a model at an address": ("train", good, f"model.path={ADDRESS}"),
        "an output folder at an address": ("train", good, f"output_dir={ADDRESS}"),
        "an option with an address": ("train", good, f"objective.beta={ADDRESS}"),
        "a key with an address": ("train", good, f"data.{ADDRESS}=1"),
        "a component with an address": ("train", good, f"objective.use={ADDRESS}"),
        "a plugin with an address": ("train", good, f"plugins=['{ADDRESS}']"),
        "a hub name with a token": ("train", good, f"data.path=owner/{HUB}"),
        "what a plugin raises": (
            "train", good, f"plugins=['{site.folder / 'talks.py'}']", f"output_dir={site.folder / 'talks'}"
        ),
        "a traceback": (
            "train", good, f"plugins=['{site.folder / 'crashes.py'}']", f"output_dir={site.folder / 'crashes'}"
        ),
        "rows that are looked at": ("data", "inspect", good, f"model.revision={HUB}"),
        "a plan": ("plan", good, f"model.revision={ADDRESS}"),
    }
    for number, (name, arguments) in enumerate(list(cases.items())[:: max(1, len(cases) // trials)]):
        log = f"secret_{number}.log"
        process = site.start(*arguments, log=log, environment=ENVIRONMENT)
        code = process.wait()
        leaks = _leaks(site.folder)
        files = sum(path.is_file() for path in site.folder.rglob("*"))
        said = process.output().strip().splitlines()[-1:] or ["nothing was said"]
        detail = f"leaked into {', '.join(leaks)}" if leaks else f"0 of {files} files; exit code {code}: {said[0]}"
        yield Trial(name, not leaks and code is not None, detail)


def _leaks(folder: Path) -> list[str]:
    """Files that hold a secret, in text or in any binary format that keeps text."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (CANARY.encode() in (content := path.read_bytes()).lower() or CANARY in path.name.lower()):
            found.append(f"{path.relative_to(folder)} ({_around(content)})")
    return found


def _around(content: bytes) -> str:
    at = max(content.lower().find(CANARY.encode()), 0)
    return content[max(at - 30, 0) : at + 30].decode("utf-8", errors="replace").replace("\n", " ")


FAMILY = Family(
    name="secrets",
    title="tokens in the environment, credentials in addresses, overrides and exceptions",
    must="0 leaked into any produced file, log, message or tracker setting",
    peers="",
    trials=15,
    run=run,
    short=4,
)
