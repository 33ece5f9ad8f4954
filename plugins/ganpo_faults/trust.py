"""Canaries: hostile modules, pickles, templates, paths and links. None is executed, and nothing is written elsewhere."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ganpo_faults.site import GAME, Site
from ganpo_faults.trial import Family, Trial

MODULES = (
    "yaml", "torch", "transformers", "datasets", "accelerate", "safetensors", "tokenizers", "pydantic", "pluggy", "typer",
    "rich", "jinja2", "numpy", "peft", "annotated_types", "sitecustomize", "usercustomize", "ganpo_objectives", "acme_hinge",
    "plugins", "conftest", "json", "csv", "gzip", "logging", "tempfile", "secrets",
)
"""Names under which a file in the working folder waits to be imported."""
LOOKED_UP = frozenset({"json", "csv", "gzip", "logging", "tempfile", "secrets"})
"""Of the standard library: Python itself may look for these before a module named by `-m` runs."""
AUDIT = """\
import os, sys
log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & WRITING:
        paths = [(arguments[0], -1)]
    elif event in ("os.remove", "os.rmdir", "os.mkdir"):
        paths = [(arguments[0], arguments[-1])]
    elif event in ("os.rename", "os.link"):
        paths = [(arguments[0], arguments[2]), (arguments[1], arguments[3])]
    elif event == "os.symlink":
        paths = [(arguments[1], arguments[2])]
    else:
        return
    for path, folder in paths:
        base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
        os.write(log, (os.path.realpath(os.path.join(base, os.fsdecode(path))) + "\\n").encode())

sys.addaudithook(watch)
"""
"""A plugin that writes down every path that the run opens for writing, makes, moves or removes."""


class Payload:
    """What a pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return (Path.touch, (self.path,))


def run(site: Site, trials: int) -> Iterator[Trial]:
    """Each canary once; the real launchers only where there is time for all."""
    canary = site.folder / "sprung"
    run_file = site.run_file("trust", **GAME, training={"max_steps": 1, "save_steps": None})
    for name, command, modules in _launchers(site, run_file)[: 1 if trials < 10 else None]:
        said = _in_hostile_folder(site, command, modules, canary)
        yield Trial(f"modules in the working folder: {name}", said.startswith("ok") and not canary.exists(), said)
        canary.unlink(missing_ok=True)
    for name, (change, reason) in MODELS.items():
        model = site.folder / "hostile_model"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(site.model, model)
        change(model, canary)
        path = site.run_file("hostile", model={"path": str(model)}, training={"max_steps": 1})
        code, output = site.ganpo("train", path, log="hostile.log")
        refused = code == 1 and reason in output and "Traceback" not in output if reason else code == 0
        yield Trial(f"model with {name}", refused and not canary.exists(), _last(output))
        canary.unlink(missing_ok=True)
        shutil.rmtree(site.folder / "hostile", ignore_errors=True)
    for name, (sections, reason) in _paths(site).items():
        code, output = site.ganpo("check", site.run_file("paths", **sections), log="paths.log")
        yield Trial(name, code == 1 and reason in output and "Traceback" not in output, _last(output))
    yield from _links(site)
    yield _audited(site)


def _launchers(site: Site, run_file: Path) -> list[tuple[str, list[str], tuple[str, ...]]]:
    binary, text = Path(sys.executable).parent, str(run_file)
    outside = tuple(name for name in MODULES if name not in LOOKED_UP)
    one = ["--standalone", "--nproc-per-node", "1"]
    again = f"output_dir={site.folder / 'trust'}"
    return [
        ("python -m ganpo_core", [sys.executable, "-m", "ganpo_core", "train", text, f"{again}_1"], outside),
        ("ganpo", [str(binary / "ganpo"), "train", text, f"{again}_2"], (*MODULES, "ganpo_core", "runpy")),
        (
            "PYTHONSAFEPATH=1 python -m ganpo_core",
            ["env", "PYTHONSAFEPATH=1", sys.executable, "-m", "ganpo_core", "train", text, f"{again}_3"],
            (*MODULES, "ganpo_core", "runpy"),
        ),
        # -P keeps the launcher itself out of the folder; the processes that it starts are on their own.
        (
            "torchrun -m ganpo_core",
            [sys.executable, "-P", "-m", "torch.distributed.run", *one, "-m", "ganpo_core", "train", text, f"{again}_4"],
            outside,
        ),
        (
            "accelerate launch -m ganpo_core",
            [
                *(sys.executable, "-P", "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"),
                *("-m", "ganpo_core", "train", text, f"{again}_5"),
            ],
            outside,
        ),
    ]


def _in_hostile_folder(site: Site, command: list[str], modules: tuple[str, ...], canary: Path) -> str:
    folder = site.folder / "working"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in modules:
        (folder / f"{name}.py").write_text(f"open({str(canary)!r}, 'a').write({name!r})\nraise ImportError\n", encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, env=environment, timeout=100
        )
    except subprocess.TimeoutExpired as error:
        return f"it did not end: {error}"
    imported = canary.read_text(encoding="utf-8") if canary.exists() else ""
    if done.returncode or imported:
        return f"exit code {done.returncode}, imported: {imported or 'nothing'}: {_last(done.stderr)}"
    return f"ok, {len(modules)} modules left alone"


def _pickled(model: Path, canary: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(canary)))


def _pickled_beside(model: Path, canary: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        (model / name).write_bytes(pickle.dumps(Payload(canary)))


def _pickled_adapter(model: Path, canary: Path) -> None:
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}), encoding="utf-8")
    (model / "adapter_model.bin").write_bytes(pickle.dumps(Payload(canary)))


def _code(model: Path, canary: Path, model_type: str) -> None:
    (model / "modeling_x.py").write_text(f"open({str(canary)!r}, 'w').close()\n", encoding="utf-8")
    mapped = {"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.Y"}
    _set(model / "config.json", auto_map=mapped, model_type=model_type)


def _tokenizer_code(model: Path, canary: Path) -> None:
    (model / "tokenization_x.py").write_text(f"open({str(canary)!r}, 'w').close()\n", encoding="utf-8")
    mapped = {"AutoTokenizer": ["tokenization_x.X", None]}
    _set(model / "tokenizer_config.json", auto_map=mapped, tokenizer_class="Unheard")


def _index(model: Path, name: str) -> None:
    shutil.copy(model / "model.safetensors", model.parent / "outside.safetensors")
    (model / "model.safetensors").rename(model / "part.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "part.safetensors", "b": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _set(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


MODELS: Mapping[str, tuple[Callable[[Path, Path], None], str]] = {
    "pickled weights alone": (_pickled, "are refused, since reading them runs code"),
    "pickles beside its weights": (_pickled_beside, ""),
    "a pickled adapter": (_pickled_adapter, "are refused, since reading them runs code"),
    "code of its own, of a known type": (lambda model, canary: _code(model, canary, "llama"), ""),
    "code of its own, of no known type": (lambda model, canary: _code(model, canary, "unheard_of"), "--trust-remote-code"),
    "code for its tokenizer": (_tokenizer_code, "--trust-remote-code"),
    "an attention kernel from elsewhere": (
        lambda model, canary: _set(model / "config.json", attn_implementation="a/kernel"), "is code from elsewhere"
    ),
    "an index that leads out": (lambda model, canary: _index(model, "../outside.safetensors"), "outside of the model's folder"),
    "an index to an absolute path": (lambda model, canary: _index(model, "/etc/passwd"), "outside of the model's folder"),
    "an index to a pickle": (lambda model, canary: _index(model, "weights.bin"), "are refused, since reading them runs code"),
}
"""(what is done to a good model, what the refusal says; empty where the run is to succeed without it) by name."""


def _paths(site: Site) -> Mapping[str, tuple[dict[str, Any], str]]:
    base = {"path": str(site.pairs)}
    item = {"latents": {"use": "hidden_state"}, "divergence": {"use": "mse"}}
    urls = ("file:///etc/passwd", "https://host/pairs.jsonl", "s3://bucket/pairs.jsonl", "hf://datasets/a/b")
    found: dict[str, tuple[dict[str, Any], str]] = {f"data at {url}": ({"data": {"path": url}}, "is a URL") for url in urls}
    found |= {
        "model at a URL": ({"model": {"path": "https://host/model"}}, "is a URL"),
        "output at a URL": ({"output_dir": "s3://bucket/run"}, "is a URL"),
        "data of no known type": ({"data": {"path": "/etc/passwd", "eval_path": "./nothing"}}, "no data file or folder"),
        "trust asked for by the run file": (
            {"model": {"path": str(site.model), "trust_remote_code": True}}, "pass --trust-remote-code on the command line"
        ),
        "a plugin that is not named as a file": ({"plugins": ["pairs"]}, "is not installed"),
    }
    for name in ("../up", "a/b", "/etc/x", ".."):
        found[f"an adversary called {name}"] = ({"data": base, "adversaries": [{"name": name, **item}]}, "expected a word")
    return found


def _links(site: Site) -> Iterator[Trial]:
    outside = site.folder / "outside"
    for name in ("checkpoints", "policy", "run.yaml", "metrics.jsonl", "checkpoints/step-00000001"):
        outside.mkdir(exist_ok=True)
        run_file = site.run_file("linked", training={"max_steps": 1})
        linked = site.folder / "linked" / name
        linked.parent.mkdir(parents=True, exist_ok=True)
        linked.symlink_to(outside / "target.txt" if linked.suffix else outside)
        code, output = site.ganpo("train", run_file, "--resume", log="linked.log")
        # A checkpoint that is a link is passed over like any that cannot be trusted; any other link stops the run.
        refused = code == 1 and "link" in _last(output)
        passed_over = code == 0 and "it is a link" in output and not linked.is_symlink()
        kept = not list(outside.iterdir())
        yield Trial(f"a link at {name}", kept and (passed_over if "step-" in name else refused), _last(output))
        shutil.rmtree(site.folder / "linked")
        shutil.rmtree(outside)


def _audited(site: Site) -> Trial:
    """Every path that a run writes to lies in its output folder, or in the places for temporary files and caches."""
    home, temporary, log = site.folder / "home", site.folder / "temporary", site.folder / "writes.log"
    for folder in (home, temporary):
        folder.mkdir(exist_ok=True)
    (site.folder / "audit.py").write_text(AUDIT.replace("LOG", repr(str(log))), encoding="utf-8")
    run_file = site.run_file("audited", **GAME, plugins=[str(site.folder / "audit.py")], training={"save_steps": 2})
    before = _snapshot(site.folder)
    process = site.start(
        "train", run_file, log="audited.log", environment={"HOME": str(home), "TMPDIR": str(temporary)}
    )
    code = process.wait()
    allowed = [site.folder / "audited", temporary, home / ".cache", Path("/dev"), Path("/proc")]
    allowed += [Path(os.environ[name]) for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_DATASETS_CACHE") if name in os.environ]
    written = {Path(line) for line in log.read_text(encoding="utf-8").splitlines()} if log.exists() else set()
    written |= {path for path in _snapshot(site.folder) - before if path not in (log, site.folder / "audited.log")}
    stray = sorted(path for path in written if not any(place == path or place in path.parents for place in allowed))
    said = f"stray: {', '.join(map(str, stray[:5]))}" if stray else f"{len(written)} paths, all where they belong"
    return Trial("all writes stay under the output folder", code == 0 and len(written) > 10 and not stray, said)


def _snapshot(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _last(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1] if lines else "nothing was said"


FAMILY = Family(
    name="trust",
    title="hostile modules, pickles, code in models, path and link canaries",
    must="0 executed, nothing written outside of the output folder",
    peers="",
    trials=100,
    run=run,
    short=1,
)
