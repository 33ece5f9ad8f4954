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
    from ganpo_core.components import Objective
    from ganpo_core.docstrings import needs_of
    from ganpo_core.errors import ConfigError
    from ganpo_core.plugins import load_plugins
    from ganpo_core.registry import source_file
    from ganpo_core.schema import describe_options

    loaded = load_plugins(plugin or ())
    registry = loaded.registry(kind)
    entry = registry[name]
    print(f"{registry.kind.name} {name}\n")
    print(inspect.getdoc(entry.component) or "")
    print("\nOptions")
    options = describe_options(entry.component)
    if not options:
        print("  none")
    for option in options:
        print(f"  {option.name}: {option.type} = {option.default}")
        print(f"      {option.text}")
    if issubclass(entry.component, Objective):
        try:
            made = registry.create(name, {})
        except ConfigError:
            made = None  # it has options without a default
        if isinstance(made, Objective):
            print(f"\nNeeds       {'; '.join(needs_of(made))}")
    for other, who in entry.component.known_as.items():
        print(f"\nAlso called '{other}' ({who.replace(': ', ', with ', 1)})")
    print(f"\nProvided by {entry.provider} ({entry.provider.distribution or 'a file'})")
    print(f"Source      {source_file(entry.component)}")
