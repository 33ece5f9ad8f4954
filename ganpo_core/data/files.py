"""Rows of single data files.

Text files are read here line by line rather than through Arrow: a malformed line keeps its number, text such as
`None` or `007` stays text, and a row of the wrong type reaches the row checks instead of failing its whole file.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from ganpo_core.data.formats import Row
from ganpo_core.errors import DataError, first_line

_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
Decodes = TypeVar("Decodes", bound=Any)


def read_file(path: Path) -> Iterator[Row]:
    """The rows of a file, in order. Raises DataError for a type that is not known or content that is damaged."""
    reader = FILE_READERS.get(suffix_of(path))
    if reader is None:
        known = ", ".join(sorted(FILE_READERS))
        raise DataError(f"{path}: the type '{path.suffix}' is not known. Convert it to one of: {known}.")
    return reader(path)


def suffix_of(path: Path) -> str:
    """The type of a file: its suffix in lower case, `.gz` aside."""
    return Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _read_jsonl(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        for number, line in enumerate(_lines(path, file), start=1):
            if line.strip():
                yield _parse_line(path, number, line)


def _lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    number = 0
    try:
        for line in file:
            number += 1
            yield line
    except _DAMAGED as error:
        where = f"{path}, after line {number}"
        raise DataError(f"{where}: the compressed file is damaged or cut off ({error}). Copy it again.") from error


def _parse_line(path: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        reason = first_line(error)
        cut_off = "" if line.endswith(b"\n") else " It is the last line and has no end: the file looks cut off."
        raise DataError(f"{path}, line {number}: not a JSON object ({reason}).{cut_off} Repair the line.") from error
    return _as_row(row, f"{path}, line {number}")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; json itself would let the last of two equal keys win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"the key '{twice}' is given twice")
    return found


def _as_row(row: object, where: str) -> Row:
    if not isinstance(row, Mapping):
        kind = type(row).__name__
        raise DataError(f'{where}: a row must be a JSON object, this is a {kind}. Write {{"prompt": …}} per row.')
    return row


def _read_json(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        content = b"".join(_lines(path, file))
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _read_jsonl(path)
        return
    try:
        rows = json.loads(content, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}). Repair the file, or save it as JSON lines.") from error
    for number, row in enumerate(rows, start=1):
        yield _as_row(row, f"{path}, row {number}")


def _read_table(delimiter: str) -> Callable[[Path], Iterator[Row]]:
    def read(path: Path) -> Iterator[Row]:
        try:
            with _open(path) as file, TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
                yield from _table_rows(path, text, delimiter)
        except _DAMAGED as error:
            raise DataError(f"{path}: the compressed file is damaged or cut off ({error}). Copy it again.") from error

    return read


def _table_rows(path: Path, text: TextIOWrapper, delimiter: str) -> list[Row]:
    # The limit on a cell is a setting of the csv module as a whole: it is lifted while this file is read.
    limit = csv.field_size_limit(sys.maxsize)
    rows: list[Row] = []
    reader = csv.DictReader(text, delimiter=delimiter, strict=True)
    try:
        names = list(reader.fieldnames or ())
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{path}, line 1: the column '{twice[0]}' is given twice. Rename or remove one.")
        for row in reader:
            if None in row or None in row.values():
                raise csv.Error(f"{'more' if None in row else 'fewer'} cells than column names")
            rows.append(row)
    except csv.Error as error:
        line = reader.reader.line_num
        raise DataError(f"{path}, line {line}: {error}. Repair the row, or its quotes.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {_first_not_utf8(path)}: not UTF-8 text ({error}). Save the file as UTF-8.") from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _first_not_utf8(path: Path) -> int:
    """The line that does not decode: what reads text is ahead of the row by a block."""
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


def _read_arrow(builder: str) -> Callable[[Path], Iterator[Row]]:
    def read(path: Path) -> Iterator[Row]:
        import datasets

        try:
            # Streamed: nothing is copied into a cache folder.
            yield from undecoded(datasets.load_dataset(builder, data_files=str(path), split="train", streaming=True))
        except Exception as error:
            reason = first_line(error)
            raise DataError(f"{path}: not a readable {builder} file ({reason}). Write it again.") from error

    return read


def undecoded(table: Decodes) -> Decodes:
    """A dataset whose images stay bytes or paths: a broken one is then a row's flaw, not its file's."""
    for name, feature in (table.features or {}).items():
        stored = _stored(feature)
        if stored != feature:
            table = table.cast_column(name, stored)
    return table


def _stored(feature: Any) -> Any:
    """The feature with every image in it, however deep, as it is stored."""
    from datasets import Image, LargeList, List

    if isinstance(feature, Image):
        return Image(decode=False)
    if isinstance(feature, List | LargeList):
        return replace(feature, feature=_stored(feature.feature))
    if isinstance(feature, Mapping):
        return {name: _stored(inner) for name, inner in feature.items()}
    return feature


FILE_READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_table(","),
    ".tsv": _read_table("\t"),
    ".parquet": _read_arrow("parquet"),
    ".arrow": _read_arrow("arrow"),
}
