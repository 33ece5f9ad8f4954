"""Data files cut in the middle, damaged or misnamed: one line that names the file, and the line in it where there are lines."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ganpo_core.config import DataConfig, load_run
from ganpo_core.data import load_pairs
from ganpo_core.errors import ConfigError, DataError
from ganpo_core.models import load_tokenizer
from ganpo_faults.site import Site
from ganpo_faults.trial import Family, Trial


def run(site: Site, trials: int) -> Iterator[Trial]:
    """Every kind of file, cut at so many places each; then names that are not there."""
    rows = [json.loads(line) for line in site.pairs.read_text(encoding="utf-8").splitlines()]
    tokenizer = load_tokenizer(load_run(site.run_file("files")).model)

    def refusal(path: Path, **options: object) -> str:
        try:
            load_pairs(DataConfig(path=str(path), **options), tokenizer)  # type: ignore[arg-type]
        except (DataError, ConfigError) as error:
            return str(error)
        except Exception as error:
            return f"TRACEBACK {type(error).__name__}: {error}"
        return "ACCEPTED"

    for kind, write in WRITERS.items():
        whole = write(rows)
        for number in range(trials):
            at = site.random.randrange(len(whole) // 8, len(whole) - 20)
            path = site.folder / f"cut_{number}.{kind}"
            path.write_bytes(_cut(kind, whole, at))
            said = refusal(path)
            placed = kind == "parquet" or "line" in said or ", the first is row" in said
            named = path.name in said and placed and "\n" not in said
            yield Trial(f"{kind} cut at byte {at}", named and not said.startswith(("TRACEBACK", "ACCEPTED")), said)
    flipped = bytearray(gzip.compress(WRITERS["jsonl"](rows), mtime=0))
    flipped[len(flipped) // 2] ^= 0x10
    (site.folder / "flipped.jsonl.gz").write_bytes(flipped)
    said = refusal(site.folder / "flipped.jsonl.gz")
    yield Trial("a bit of a compressed file", "flipped.jsonl.gz" in said and not said.startswith(("T", "A")), said)
    twice = site.folder / "twice.jsonl"
    twice.write_text('{"prompt": "w1", "chosen": " w1", "chosen": " w2", "rejected": " w3"}\n', encoding="utf-8")
    said = refusal(twice)
    yield Trial("a key twice in a row", "twice.jsonl, line 1" in said and "given twice" in said, said)
    for wrong in ("trian", "Train", "tain"):
        said = refusal(site.pairs, split=wrong)
        yield Trial(f"split {wrong}", "Did you mean 'train'?" in said, said)


def _cut(kind: str, whole: bytes, at: int) -> bytes:
    """Before `at`, and inside of a row: a file that ends with a whole row is a shorter file and no damage."""
    if kind in ("parquet", "jsonl.gz"):
        return whole[:at]
    while whole[at - 1 : at] in (b"\n", b"\r", b"}") or whole[at : at + 1] in (b"\n", b"\r"):
        at -= 1
    return whole[:at]


def _jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _csv(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _parquet(rows: list[dict[str, str]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


WRITERS: Mapping[str, Callable[[list[dict[str, str]]], bytes]] = {
    "jsonl": _jsonl,
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "jsonl.gz": lambda rows: gzip.compress(_jsonl(rows), mtime=0),
    "csv": _csv,
    "parquet": _parquet,
}

FAMILY = Family(
    name="files",
    title="data files cut in the middle or damaged, wrong split names",
    must="one line with file and line; the nearest split suggested",
    peers="",
    trials=20,
    run=run,
    short=4,
)
