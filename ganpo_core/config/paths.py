"""Paths in a run file are relative to it; what is neither a file nor a folder there is a name on the hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ganpo_core.config.sections import DataConfig, ModelConfig, TrainingConfig

DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
"""Of files that hold pairs, perhaps with `.gz` behind; `data/files.py` has their readers."""

Problems = list[tuple[str, str]]
"""(dotted path of the option, message)."""


def resolve_paths(
    model: ModelConfig | None, data: DataConfig | None, folder: Path
) -> tuple[ModelConfig | None, DataConfig | None, Problems]:
    """Both sections with absolute local paths, and a message for each that is missing."""
    problems: Problems = []

    def local(key: str, value: str, wanted: str) -> str:
        if not value.strip():
            problems.append((key, f"{key}: must not be empty"))
            return value
        if "://" in value:
            problems.append((key, f"{key}: '{value}' is a URL; download it and give the {wanted}, or give a name on the hub"))
            return value
        found = _absolute(value, folder)
        if found.exists():
            return str(found)
        if _looks_local(value):
            problems.append((key, f"{key}: no {wanted} at '{value}' ({found}); paths are relative to the run file"))
        return value

    def local_model(key: str, value: str) -> str:
        found = local(key, value, "model folder")
        if Path(found).is_dir() and value.strip() and not (Path(found) / "config.json").is_file():
            problems.append((key, f"{key}: '{found}' holds no config.json, so it is not a model folder"))
        elif Path(found).is_file():
            problems.append((key, f"{key}: '{found}' is a file; a model is a folder or a name on the hub"))
        return found

    def local_data(key: str, value: str) -> str:
        return local(key, value, "data file or folder")

    if model is not None:
        reference = None if model.reference is None else local_model("model.reference", model.reference)
        model = replace(model, path=local_model("model.path", model.path), reference=reference)
    if data is not None:
        data = replace(
            data,
            path=None if data.path is None else local_data("data.path", data.path),
            eval_path=None if data.eval_path is None else local_data("data.eval_path", data.eval_path),
            sources=tuple(
                replace(source, path=local_data(f"data.sources.{index}.path", source.path))
                for index, source in enumerate(data.sources)
            ),
        )
    return model, data, problems


def resolve_output(value: str | None, folder: Path) -> tuple[Path | None, Problems]:
    """The absolute output folder, and a message where it cannot be one."""
    if value is None:
        return None, []
    if not value.strip():
        return None, [("output_dir", "output_dir: must not be empty")]
    if "://" in value:
        return None, [("output_dir", f"output_dir: '{value}' is a URL; give a folder of this machine")]
    found = _absolute(value, folder)
    if found.exists() and not found.is_dir():
        return None, [("output_dir", f"output_dir: '{found}' is a file")]
    return found, []


def resolve_cache(training: TrainingConfig | None, folder: Path) -> tuple[TrainingConfig | None, Problems]:
    """The section with the absolute folder of `reference_cache`, and a message where it cannot be one."""
    key = "training.reference_cache"
    if training is None or training.reference_cache is None:
        return training, []
    value = training.reference_cache
    if not value.strip() or "://" in value:
        return training, [(key, f"{key}: '{value}' is no folder of this machine")]
    found = _absolute(value, folder)
    if found.exists() and not found.is_dir():
        return training, [(key, f"{key}: '{found}' is a file")]
    return replace(training, reference_cache=str(found)), []


def _absolute(value: str, folder: Path) -> Path:
    try:
        return (folder / Path(value).expanduser()).resolve()
    except (RuntimeError, ValueError):  # `~nobody`, or a null character: no such path
        return folder / value.replace("\0", "?")


def _looks_local(value: str) -> bool:
    """Hub names are `name` or `owner/name`, without a data file's suffix."""
    return (
        value.startswith((".", "/", "~")) or value.removesuffix(".gz").endswith(DATA_SUFFIXES) or value.count("/") > 1
    )
