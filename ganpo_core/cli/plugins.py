"""`ganpo plugins`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ganpo_core.registry import Provider


def list_plugins(
    run: Annotated[Path | None, typer.Argument(help="Also enable what this run file names.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> None:
    """List every component with its plugin, and the plugins that are installed but not enabled."""
    from ganpo_core.config.document import read_document
    from ganpo_core.config.reading import plugin_names
    from ganpo_core.plugins import load_plugins

    names = [] if run is None else plugin_names(read_document(run))
    loaded = load_plugins(names, None if run is None else run.resolve().parent)
    rows: list[dict[str, object]] = [
        {"kind": kind, "name": name, **_provider(entry.provider), "enabled": True}
        for kind, name, entry in loaded.entries()
    ]
    # What a plugin would register is unknown until it is imported, and it is imported only when a run file names it.
    rows += [{"kind": "plugin", "name": other.plugin, **_provider(other), "enabled": False} for other in loaded.available]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    widths = [max(len(str(row[key])) for row in rows) for key in ("kind", "name", "plugin")]
    for row in rows:
        state = "" if row["enabled"] else "  not enabled: add it to `plugins:` in the run file"
        columns = "  ".join(f"{row[key]!s:<{width}}" for key, width in zip(("kind", "name", "plugin"), widths, strict=True))
        print(f"{columns}  {row['version']}{state}")


def _provider(provider: Provider) -> dict[str, object]:
    return {"plugin": provider.plugin, "distribution": provider.distribution, "version": provider.version}
