"""Fills the tables of docs/*.md from the classes that define the options: `python -m docs.generate [--check]`.

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; whatever was there before is replaced.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from ganpo_core.components import Component, Discriminator, Divergence, Judge, Objective
from ganpo_core.config.presets import PRESETS
from ganpo_core.config.run import options_of
from ganpo_core.config.sections import AdversaryConfig, DataConfig, DataSource, LoraConfig, ModelConfig, TrainingConfig
from ganpo_core.data.files import FILE_READERS
from ganpo_core.docstrings import needs_of, read_docstring
from ganpo_core.options import validate
from ganpo_core.plugins import Plugins, load_plugins
from ganpo_core.registry import source_file
from ganpo_core.schema import describe_options

FOLDER = Path(__file__).parent
BLOCK = re.compile(r"(<!-- generated: (?P<name>[\w ]+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    """Rewrite the pages; with `--check` write nothing, name the stale ones and return 1 if there are any."""
    stale = []
    for page in sorted(FOLDER.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        filled = fill(text)
        if filled != text:
            stale.append(page.name)
            if "--check" not in arguments:
                page.write_text(filled, encoding="utf-8")
    checking = "--check" in arguments
    for name in stale:
        print(f"docs/{name}: {'stale; run `make docs`' if checking else 'written'}")
    return 1 if checking and stale else 0


def fill(text: str) -> str:
    """A page with every generated block made again. Raises KeyError for a block that nothing makes."""
    made = blocks()
    return BLOCK.sub(lambda found: f"{found[1]}\n{made[found['name']]()}\n\n{found[4]}", text)


def blocks() -> Mapping[str, Callable[[], str]]:
    """The makers of the generated blocks, by name."""
    plugins = load_plugins()
    sections: Mapping[str, type] = {
        "model": ModelConfig,
        "lora": LoraConfig,
        "data": DataConfig,
        "source": DataSource,
        "adversary": AdversaryConfig,
        "training": TrainingConfig,
    }
    return {
        **{f"section {name}": partial(options, section) for name, section in sections.items()},
        **{f"equations {kind}": partial(equations, plugins, kind) for kind in ("objective", "divergence")},
        **{f"components {kind}": partial(components, plugins, kind) for kind in plugins.registries},
        "objectives": partial(choose_objective, plugins),
        "departures": partial(departures, plugins),
        "presets": presets,
        **{f"preset {name}": partial(resolved_preset, name) for name in PRESETS},
        "file types": lambda: ", ".join(f"`{suffix}`" for suffix in FILE_READERS),
    }


def options(cls: type) -> str:
    """The options of a section or a component as a table."""
    rows = [[f"`{o.name}`", o.type, f"`{o.default}`", o.text] for o in describe_options(cls)]
    return table(["option", "type", "default", "what it is"], rows) if rows else "No options."


def components(plugins: Plugins, kind: str) -> str:
    """Every registered component of a kind: one line each, then each with its documentation and options."""
    registry = plugins.registry(kind)
    if not registry:
        return "None in this release."
    facts = [[f"[`{name}`](#{kind.replace('_', '-')}-{name})", *_facts(registry[name].component)] for name in registry]
    parts = [table(["name", "needs"], facts)] if facts[0][1:] else []  # objectives have a table of their own
    for name in registry:
        entry = registry[name]
        title = f"#### {kind.replace('_', ' ')} `{name}`"
        parts += [title, inspect.getdoc(entry.component) or "", options(entry.component)]
    return "\n\n".join(parts)


def choose_objective(plugins: Plugins) -> str:
    """Every objective in a line: when it is the right one, what it needs, where it comes from."""
    registry = plugins.registry("objective")
    rows = []
    for name in registry:
        made, text = registry.create(name, {}), read_docstring(registry[name].component)
        assert isinstance(made, Objective)
        needs = [need for need in needs_of(made) if need not in ("a reference", "pairs")]
        rows.append([f"[`{name}`](#objective-{name})", text.when, "; ".join(needs), text.source, text.trl])
    return table(["name", "the right one when", "needs, beside pairs and a reference", "source", "TRL"], rows)


def equations(plugins: Plugins, kind: str) -> str:
    """Every component's formula, beside its file and its source."""
    registry, parts = plugins.registry(kind), []
    for name in registry:
        component = registry[name].component
        text = read_docstring(component)
        file = Path(source_file(component)).relative_to(FOLDER.parent).as_posix()
        formula = "\n".join(f"    {line}" for line in text.formula.splitlines())
        source = f" {text.source}" if text.source else ""
        parts.append(f"`{name}`, `{file}`.{source}\n\n{formula or text.summary}")
    return "\n\n".join(parts)


def departures(plugins: Plugins) -> str:
    """Where TRL's loss of that name is not the paper's."""
    registry = plugins.registry("objective")
    texts = {name: read_docstring(registry[name].component) for name in registry}
    rows = [[f"`{name}`", text.departs] for name, text in texts.items() if text.departs]
    return table(["objective", "here, and in TRL 1.16"], rows)


def presets() -> str:
    """What each preset sets, beside the default of the class."""
    keys = dict.fromkeys((part, key) for preset in PRESETS.values() for part in preset for key in preset[part])
    rows = [
        [f"`{part}.{key}`", *(_text(preset.get(part, {}).get(key, "")) for preset in PRESETS.values())]
        for part, key in keys
    ]
    return table(["key", *(f"`{name}`" for name in PRESETS)], rows)


def resolved_preset(name: str) -> str:
    """Every key of `adversary:` as it stands with this preset and nothing else in the file."""
    written = {"preset": name, **PRESETS[name]["adversary"]}
    resolved = options_of(validate(AdversaryConfig, written, "adversary"))
    rows = [
        [f"`{key}`", _text(value), "preset" if key in PRESETS[name]["adversary"] else "default"]
        for key, value in resolved.items()
        if key != "preset"
    ]
    return table(["key of `adversary:`", "value", "from"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _facts(component: type[Component]) -> Iterator[str]:
    """What a component asks of its neighbours in a run file, in words."""
    if issubclass(component, Objective | Judge):
        return
    if issubclass(component, Divergence):
        if not component.needs_critic:
            yield "`latents` alone: a direct distance"
            return
        baseline = {"none": "no baseline", "group_mean": "baselines: group means", "pairwise": "baseline: the pair"}
        forms = ", ".join(f"`{form}`" for form in component.forms)
        yield (
            f"`latents` and `discriminator`; {baseline[component.baseline]}; "
            f"cross weight {component.cross_weight:g}; own forms: {forms}"
        )
    elif issubclass(component, Discriminator):
        yield "a divergence with a critic"
    else:
        yield "a divergence"


def _text(value: object) -> str:
    if value == "":
        return ""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return f"`{words[value]}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
