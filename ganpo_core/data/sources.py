"""Where rows come from: a file, a folder, or a dataset on the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ganpo_core.data.files import FILE_READERS, read_file, suffix_of, undecoded
from ganpo_core.data.formats import Row
from ganpo_core.errors import DataError, first_line
from ganpo_core.redact import redact
from ganpo_core.suggest import did_you_mean

if TYPE_CHECKING:
    from ganpo_core.config import DataConfig

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class NamedSource:
    """One source of rows, with the short name under which its pairs are counted."""

    name: str
    path: str
    split: str | None
    weight: float = 1.0
    default_split: str = "train"
    """The split of several that is read where none is named."""

    @property
    def place(self) -> str:
        """The path and split, for messages."""
        return f"{self.path} (split '{self.split}')" if self.split else self.path


    @property
    def folder(self) -> Path | None:
        """What the paths in rows are relative to: the data file's folder, or the folder of files; None for the hub."""
        path = Path(self.path)
        return path if path.is_dir() else path.parent if path.is_file() else None


def named_sources(config: DataConfig, *, evaluation: bool = False) -> tuple[NamedSource, ...]:
    """The sources of training or of evaluation. Raises DataError where the section names none."""
    if evaluation:
        path = config.eval_path or config.path
        if path is None or (config.eval_path is None and config.eval_split is None):
            raise DataError("data: no rows to evaluate on; give `eval_path`, or `eval_split` beside `path`")
        listed = [(path, config.eval_split, 1.0)]
    elif config.sources:
        listed = [(source.path, source.split, source.weight) for source in config.sources]
    elif config.path is not None:
        listed = [(config.path, config.split, 1.0)]
    else:
        raise DataError("data: no rows to train on; give `path`, or a list of `sources`")
    names = [_labelled(Path(path).name if Path(path).exists() else path, split) for path, split, _ in listed]
    if len(set(names)) < len(names):
        names = [_labelled(path, split) for path, split, _ in listed]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"data.sources: {repeated} is listed twice; list it once and raise its `weight`")
    default = "test" if evaluation else "train"
    return tuple(NamedSource(name, *entry, default) for name, entry in zip(names, listed, strict=True))


def read_rows(source: NamedSource) -> Iterable[Row]:
    """The rows of a source, in order. Raises DataError where there is nothing to read, or not that split."""
    path = Path(source.path)
    if path.is_file():
        return read_file(_pick({"train": path}, source))
    if path.is_dir():
        return _read_folder(path, source)
    if path.is_absolute() or source.path.startswith(("./", "../", "~")) or suffix_of(path) in FILE_READERS:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, siblings) or " Check the path; it is relative to the run file."
        raise DataError(f"{source.path}: no such file or folder.{hint}")
    return _read_hub(source)


def _labelled(name: str, split: str | None) -> str:
    # Names are written into every file of a run.
    return redact(f"{name}[{split}]" if split else name)


def _pick(splits: Mapping[str, Loaded], source: NamedSource) -> Loaded:
    """The split asked for; where none is asked for, the only one, or the default one."""
    known = ", ".join(splits)
    if source.split is not None:
        if source.split in splits:
            return splits[source.split]
        hint = did_you_mean(source.split, splits) or " Name one of these."
        raise DataError(f"{source.path} has no split '{source.split}'; it has: {known}.{hint}")
    if len(splits) == 1:
        return next(iter(splits.values()))
    if source.default_split in splits:
        return splits[source.default_split]
    raise DataError(f"{source.path} has several splits: {known}. Name one as `split`.")


def _read_folder(path: Path, source: NamedSource) -> Iterable[Row]:
    import datasets

    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = _quietly(source, lambda: datasets.load_from_disk(str(path)))
        if isinstance(saved, datasets.DatasetDict):
            return _rows(_pick({str(name): split for name, split in saved.items()}, source))
        return _rows(_pick({str(saved.split or "train"): saved}, source))
    builder = _quietly(source, lambda: datasets.load_dataset_builder(str(path)))
    files: dict[str, list[Path]] = {
        str(split): [Path(file) for file in listed] for split, listed in (builder.config.data_files or {}).items()
    }
    return _read_files(_pick(files, source))


def _read_files(files: Iterable[Path]) -> Iterator[Row]:
    for file in files:
        if suffix_of(file) in FILE_READERS:
            yield from read_file(file)


def _read_hub(source: NamedSource) -> Iterable[Row]:
    import datasets

    if source.split and set(source.split) & set("[+"):  # `train[:1000]`: the hub library's own slicing
        return _rows(_quietly(source, lambda: datasets.load_dataset(source.path, split=source.split)))
    splits = _quietly(source, lambda: datasets.load_dataset(source.path))
    return _rows(_pick({str(name): split for name, split in splits.items()}, source))


def _rows(table: Any) -> Iterator[Row]:
    yield from undecoded(table)


def _quietly(source: NamedSource, load: Callable[[], Loaded]) -> Loaded:
    """What `load` returns; whatever the library raises becomes one line that says what was looked for."""
    with _no_progress_bars():
        try:
            return load()
        except Exception as error:
            reason = first_line(error)
            where = (
                "cannot be read as a dataset" if Path(source.path).exists() else "is no path here, and no hub dataset"
            )
            hint = "Check the name, and the connection if it is a hub name."
            raise DataError(f"{source.path} {where} ({reason}). {hint}") from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    import datasets

    were_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            datasets.enable_progress_bars()
