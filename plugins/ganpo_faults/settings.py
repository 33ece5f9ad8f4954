"""Run files that YAML reads otherwise than they look, and numbers out of range: read rightly, or refused within a second."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import yaml

from ganpo_core.config import load_run
from ganpo_core.config.sections import (
    AdversaryConfig,
    DataConfig,
    LoraConfig,
    ModelConfig,
    SyncReference,
    TrainingConfig,
)
from ganpo_core.errors import ConfigError
from ganpo_core.plugins import load_plugins
from ganpo_faults.site import Site
from ganpo_faults.trial import Family, Trial

SECONDS = 1.0
"""Of processor time, for a file of any size."""
NEVER: Mapping[str, object] = {
    "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "1e300": 1e300, "-1e300": -1e300, "10**40": 10**40,
    "text": "1", "true": True, "a list of a list": [[1]], "-1e13": -1e13,
}
"""What no numeric option takes."""

READ: Mapping[str, tuple[str, str, object]] = {
    "5e-7": ("training.learning_rate", "5e-7", 5e-7),
    "1E-3": ("training.learning_rate", "1E-3", 1e-3),
    "1_000": ("training.max_steps", "1_000", 1000),
    "~": ("training.max_steps", "~", None),
    "no as text": ("model.revision", "no", "no"),
    "on as text": ("model.revision", "on", "on"),
    "yes as text": ("model.revision", "yes", "yes"),
    "12:30 as text": ("model.revision", "12:30", "12:30"),
    "a date as text": ("model.revision", "2024-01-01", "2024-01-01"),
    "0x10 as text": ("model.revision", "0x10", "0x10"),
    ".inf as text": ("model.revision", ".inf", ".inf"),
    "true": ("training.gradient_checkpointing", "true", True),
}
"""(option, what is written, what it means) by name."""
REFUSED: Mapping[str, tuple[str, str]] = {
    "no for false": ("training.gradient_checkpointing", "no"),
    "on for true": ("training.gradient_checkpointing", "on"),
    "yes for true": ("training.gradient_checkpointing", "yes"),
    "a leading zero": ("training.max_steps", "010"),
    "sexagesimal": ("training.max_steps", "12:30"),
    "a date for a number": ("training.max_steps", "2024-01-01"),
    "hexadecimal": ("training.max_steps", "0x10"),
    ".inf": ("training.learning_rate", ".inf"),
    ".nan": ("training.learning_rate", ".nan"),
    "a quoted number": ("training.learning_rate", "'5e-7'"),
    "a share in percent": ("training.warmup_ratio", "10"),
    "a ratio for steps": ("training.warmup_steps", "0.1"),
    "a rate of 5": ("training.learning_rate", "5"),
    "a rate that float32 cannot hold": ("training.learning_rate", "1e-50"),
    "a seed beyond 32 bits": ("seed", "99999999999"),
    "a number of 5000 digits": ("training.max_steps", "7" * 5000),
    "an unquoted colon": ("model.revision", "a: b"),
}
"""(option, what is written) by name."""


def run(site: Site, trials: int) -> Iterator[Trial]:
    """Traps of YAML, files made to choke a parser, then every numeric option with so many wrong values."""
    base = yaml.safe_load(site.run_file("settings").read_text(encoding="utf-8"))
    for name, (path, text, value) in READ.items():
        problem, config = _load(site, _with(base, path, text))
        found = None if config is None else _at(config.resolved, path)
        yield Trial(name, problem is None and found == value and type(found) is type(value), problem or repr(found))
    for name, (path, text) in REFUSED.items():
        problem, _ = _load(site, _with(base, path, text))
        yield Trial(name, problem is not None and not problem.startswith("TRACEBACK"), problem or "accepted")
    for name, (content, accepted) in _files(yaml.safe_dump(base)).items():
        start = time.process_time()
        problem, _ = _load(site, content)
        took = time.process_time() - start
        answered = (problem is None) == accepted and not (problem or "").startswith("TRACEBACK")
        yield Trial(name, answered and took < SECONDS, f"{took:.2f} s: {problem or 'read'}"[:300])
    options = list(_numeric(base))
    for whole, path in options[:: max(1, len(options) // trials)]:
        wrong = []
        for name, value in NEVER.items():
            try:
                load_run(whole, {path: value})
                wrong.append(f"{name} accepted")
            except ConfigError as error:
                if path.rpartition(".")[2] not in str(error):
                    wrong.append(f"{name}: {error}")
            except Exception as error:
                wrong.append(f"{name}: {type(error).__name__}: {error}")
        yield Trial(path, not wrong, "; ".join(wrong) or f"{len(NEVER)} values refused")


def _load(site: Site, content: str | bytes) -> tuple[str | None, Any]:
    path = site.folder / "trap.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        return None, load_run(path)
    except ConfigError as error:
        return str(error), None
    except Exception as error:
        return f"TRACEBACK {type(error).__name__}: {error}", None


def _with(base: Mapping[str, Any], path: str, text: str) -> str:
    """The run file with one option as it is written, character by character."""
    section, _, key = path.rpartition(".")
    rest = {name: dict(value) if isinstance(value, dict) else value for name, value in base.items()}
    if not section:
        return yaml.safe_dump({name: value for name, value in rest.items() if name != key}) + f"{key}: {text}\n"
    held = {name: value for name, value in rest.pop(section, {}).items() if name != key}
    lines = [f"  {name}: {value}" for name, value in held.items()]
    return yaml.safe_dump(rest) + f"{section}:\n" + "\n".join([*lines, f"  {key}: {text}"]) + "\n"


def _at(node: Any, path: str) -> object:
    for part in path.split("."):
        node = node[part]
    return node


def _files(good: str) -> Mapping[str, tuple[str | bytes, bool]]:
    """(content, whether it is to be accepted) of whole files."""
    bomb = ["x-a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"x-a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    return {
        "a byte-order mark": (b"\xef\xbb\xbf" + good.encode(), True),
        "line ends of another system": (good.replace("\n", "\r\n"), True),
        "a tab": (good.replace("  path", "\tpath", 1), False),
        "a key twice": (good + "seed: 1\nseed: 2\n", False),
        "a key twice inside": (good.replace("  path:", "  path: x\n  path:", 1), False),
        "a bomb of aliases": ("\n".join(bomb) + "\n" + good, False),
        "an anchor inside of itself": ("x-a: &a [*a]\n" + good, False),
        "3000 deep": (good + "x-deep: " + "[" * 3000 + "]" * 3000, False),
        "3000 deep in mappings": (good + "x-deep: " + "{a: " * 3000 + "}" * 3000, False),
        "100,000 lines": (good + "".join(f"x-{i}: {i}\n" for i in range(100_000)), False),
        "100,000 comments": (good + "# a comment of some words\n" * 100_000, False),
        "9,000 lines": (good + "# a comment of some words\n" * 9_000, False),
        "a line of a million letters": (good + f"x-long: {'a' * 1_000_000}\n", False),
        "ten thousand values": (good + "x-many: [" + "1," * 12_000 + "]\n", False),
        "two documents": (good + "---\n" + good, False),
        "a tag that calls": (good + "x-tag: !!python/object/apply:os.getcwd []\n", False),
        "a merge key": ("x-base: &base {seed: 1}\n<<: *base\n" + good, False),
        "another encoding": (good.encode("utf-16"), False),
        "a NUL": (good + "x-nul: a\0b\n", False),
        "nothing": ("", False),
    }


def _numeric(base: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """(a run that is right, the path of a numeric option in it)."""
    game = {"latents": {"use": "hidden_state"}, "discriminator": {"use": "mlp"}, "divergence": {"use": "ragan"}}
    sections = {"model": ModelConfig, "model.lora": LoraConfig, "data": DataConfig, "training": TrainingConfig}
    sections |= {"training.sync_reference": SyncReference}
    yield dict(base), "seed"
    for path, cls in sections.items():
        yield from ((dict(base), f"{path}.{name}") for name in _numbers(cls))
    yield from (({**base, **game, "adversary": {}}, f"adversary.{name}") for name in _numbers(AdversaryConfig))
    names = {"latent_extractor": "latents"}
    for kind, name, entry in load_plugins().entries(in_run_file=True):
        section = names.get(kind, kind)
        whole = {**base, **({} if kind == "objective" else game), section: {"use": name, **entry.component.example}}
        yield from ((whole, f"{section}.{option}") for option in _numbers(entry.component))


def _numbers(cls: type) -> list[str]:
    """The options of a class that hold a number, and neither text nor a list."""
    hints = get_type_hints(cls)
    kinds = {field.name: {hints[field.name], *get_args(hints[field.name])} for field in fields(cls) if field.init}
    return [name for name, types in kinds.items() if types & {int, float} and types <= {int, float, type(None)}]


FAMILY = Family(
    name="settings",
    title="traps of YAML, files made to choke a parser, numbers out of range in every option",
    must="read rightly or refused, within a second",
    peers="`5e-7` is text, the last of two keys wins, no ranges",
    trials=1000,
    run=run,
    short=20,
)
