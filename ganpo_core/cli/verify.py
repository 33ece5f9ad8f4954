"""`ganpo verify`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated

import typer

from ganpo_core.registry import Entry, Registry


def verify(
    kind: Annotated[str | None, typer.Argument(help="objective, latent_extractor, divergence, discriminator or judge")] = None,
    name: Annotated[str | None, typer.Argument(help="As in `use:`.")] = None,
    options: Annotated[list[str] | None, typer.Argument(help="key=value, such as beta=0.2")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every registered component, or every one of a kind.")] = False,
    plugin: Annotated[list[str] | None, typer.Option(help="Enable a third-party plugin first; ./my_loss.py works too.")] = None,
) -> None:
    """Check that components keep their contract, on small random values; one line each, exit status 1 if one fails."""
    import torch

    from ganpo_core.config.document import split_override
    from ganpo_core.errors import ConfigError
    from ganpo_core.plugins import load_plugins

    torch.set_num_threads(1)  # the values are small: threads would only wait for each other
    loaded = load_plugins(plugin or ())
    if every:
        if name is not None:
            raise ConfigError("ganpo verify: give either a name or --all")
        of_kind = [(own, other, entry) for own, other, entry in loaded.entries() if kind in (None, own)]
        if not of_kind:
            loaded.registry(str(kind))  # says which kinds there are
        asked = [(own, other) for own, other, entry in of_kind if _can_be_made(entry, own, other)]
    elif kind is None or name is None:
        raise ConfigError("ganpo verify: give a kind and a name, such as `ganpo verify objective dpo`, or --all")
    else:
        asked = [(kind, name)]
    given = dict(map(split_override, options or ()))
    failed = [asked_for for asked_for in asked if not _passes(loaded.registry(asked_for[0]), asked_for[1], given)]
    if len(asked) > 1:
        print(f"{len(asked) - len(failed)} of {len(asked)} keep their contract")
    if failed:
        raise typer.Exit(1)


def _can_be_made(entry: Entry, kind: str, name: str) -> bool:
    """False, with a line that says so, where an option has neither a default nor an example."""
    from ganpo_core.schema import describe_options

    required = [option.name for option in describe_options(entry.component) if option.default == "required"]
    missing = [option for option in required if option not in entry.component.example]
    if missing:
        print(f"skipped {kind} {name}: give {', '.join(f'{option}=…' for option in missing)}", flush=True)
    return not missing


def _passes(registry: Registry, name: str, given: Mapping[str, object]) -> bool:
    from ganpo_core.testing import verify as verify_component

    started = time.perf_counter()
    component = registry.create(name, {**registry[name].component.example, **given})
    label = f"{registry.kind.name} {name}"
    try:
        verify_component(component)
    except AssertionError as broken:
        print(f"FAILED  {label}: {broken}", flush=True)
        return False
    print(f"ok      {label}  {time.perf_counter() - started:.1f} s", flush=True)
    return True
