"""Paths in a run file are relative to it; what is neither a file nor a folder there is a name on the hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ganpo_core.config.sections import DataConfig, ModelConfig

DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")


def resolve_paths(
    model: ModelConfig, data: DataConfig, folder: Path
) -> tuple[ModelConfig, DataConfig, list[tuple[str, str]]]:
    """Both sections with absolute local paths, and (path, message) for each that is missing."""
    problems: list[tuple[str, str]] = []

    def local(key: str, value: str, wanted: str) -> str:
        found = (folder / Path(value).expanduser()).resolve()
        if found.exists():
            return str(found)
        if _looks_local(value):
            problems.append((key, f"{key}: no {wanted} at '{value}' ({found}); paths are relative to the run file"))
        return value

    def local_model(key: str, value: str) -> str:
        found = local(key, value, "model folder")
        if Path(found).is_dir() and not (Path(found) / "config.json").is_file():
            problems.append((key, f"{key}: '{found}' holds no config.json, so it is not a model folder"))
        elif Path(found).is_file():
            problems.append((key, f"{key}: '{found}' is a file; a model is a folder or a name on the hub"))
        return found

    model = replace(model, path=local_model("model.path", model.path))
    if model.reference is not None:
        model = replace(model, reference=local_model("model.reference", model.reference))
    data = replace(
        data,
        path=None if data.path is None else local("data.path", data.path, "data file or folder"),
        eval_path=None if data.eval_path is None else local("data.eval_path", data.eval_path, "data file or folder"),
        sources=tuple(
            replace(source, path=local(f"data.sources.{index}.path", source.path, "data file or folder"))
            for index, source in enumerate(data.sources)
        ),
    )
    return model, data, problems


def _looks_local(value: str) -> bool:
    """Hub names are `name` or `owner/name`, without a data file's suffix."""
    return value.startswith((".", "/", "~")) or value.endswith(DATA_SUFFIXES) or value.count("/") > 1
