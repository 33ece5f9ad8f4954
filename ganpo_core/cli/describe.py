"""`ganpo describe`."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer


def describe(
    kind: Annotated[str, typer.Argument(help="objective, latent_extractor, divergence or discriminator")],
    name: Annotated[str, typer.Argument(help="As in `use:`.")],
    plugin: Annotated[list[str] | None, typer.Option(help="Enable a third-party plugin first.")] = None,
) -> None:
    """Print a component's documentation, options, provider and source file."""
    from ganpo_core.plugins import load_plugins
    from ganpo_core.registry import describe_source
    from ganpo_core.schema import describe_options

    loaded = load_plugins(plugin or ())
    entry = loaded.registry(kind)[name]
    print(f"{kind} {name}\n")
    print(inspect.getdoc(entry.component) or "")
    print("\nOptions")
    for option in describe_options(entry.component):
        print(f"  {option.name}: {option.type} = {option.default}")
        print(f"      {option.text}")
    print(f"\nProvided by {entry.provider} ({entry.provider.distribution or 'a file'})")
    print(f"Source      {describe_source(entry.component)}")
