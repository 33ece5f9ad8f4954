"""Files, folders and names that rows are read from."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import datasets
import pytest

from ganpo_core.config import DataSource
from ganpo_core.data import load_pairs
from ganpo_core.data.sources import named_sources
from ganpo_core.errors import DataError

ROWS = [
    {"prompt": "one", "chosen": " two", "rejected": " three"},
    {"prompt": "four", "chosen": " None", "rejected": " 007 two"},
]
CHAT = [
    {
        "prompt": [{"role": "user", "content": "one"}],
        "chosen": [{"role": "assistant", "content": "two"}],
        "rejected": [{"role": "assistant", "content": "three"}],
    }
]


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def as_file(rows, kind: str, folder: Path) -> Path:
    path = folder / f"pairs.{kind}"
    if kind == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif kind in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            for row in rows:
                writer.writerow({key: v if isinstance(v, str) else json.dumps(v) for key, v in row.items()})
    elif kind == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(path)
    elif kind == "saved_splits":
        table = datasets.Dataset.from_list(rows)
        datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(path)
    elif kind == "folder":
        path.mkdir()
        (path / "README.md").write_text("What these rows are.")
        (path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (path / "test.jsonl").write_text(json.dumps(rows[0]))
    return path


KINDS = ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet", "saved", "saved_splits", "folder"]


@pytest.mark.parametrize("rows", [ROWS, CHAT], ids=["text", "chat"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_tokens(kind, rows, tmp_path, config, tokenizer):
    expected, _ = load_pairs(config(path=str(as_file(rows, "json", tmp_path))), tokenizer)
    dataset, _ = load_pairs(config(path=str(as_file(rows, kind, tmp_path))), tokenizer)
    assert dataset.fingerprint() == expected.fingerprint()
    assert [pair.row for pair in dataset] == list(range(1, len(rows) + 1))


def test_json_lines_in_a_json_file_and_a_byte_order_mark_are_read(tmp_path, config, tokenizer):
    path = tmp_path / "pairs.json"
    path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    assert len(load_pairs(config(path=str(path)), tokenizer)[0]) == 2


def test_nothing_is_written_beside_or_into_a_cache(tmp_path, config, tokenizer, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    path = as_file(ROWS, "parquet", tmp_path)
    load_pairs(config(path=str(path)), tokenizer)
    assert not list(cache.rglob("*.arrow"))


def test_a_csv_cell_may_hold_line_breaks_commas_and_a_hundred_thousand_words(tmp_path, config, tokenizer):
    """100,000 words of 4 letters and a space: beyond the 131,072 characters the csv module allows by default."""
    rows = [{"prompt": "one,\ntwo\u2028", "chosen": " three" * 100_000, "rejected": ' "four"'}]
    dataset, report = load_pairs(config(path=str(as_file(rows, "csv", tmp_path)), max_length=200_000), tokenizer)
    assert len(dataset[0].chosen) == 100_001
    assert csv.field_size_limit() == 131_072
    assert report.kept == 1


def test_a_file_cut_in_the_middle_names_the_file_and_the_line(tmp_path, config, tokenizer):
    path = as_file(ROWS, "jsonl", tmp_path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError) as error:
        load_pairs(config(path=str(path)), tokenizer)
    assert f"{path}, line 2: not a JSON object" in str(error.value)
    assert "looks cut off" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", "3", '{"prompt": "\xff'])
def test_a_malformed_line_names_the_file_and_the_line(line, tmp_path, config, tokenizer):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode() + b"\n\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 3: "):
        load_pairs(config(path=str(path)), tokenizer)


def test_a_malformed_line_in_a_folder_names_the_file_and_the_line(tmp_path, config, tokenizer):
    folder = as_file(ROWS, "folder", tmp_path)
    (folder / "train.jsonl").write_text(json.dumps(ROWS[0]) + "\n{")
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: "):
        load_pairs(config(path=str(folder)), tokenizer)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.jsonl.gz", gzip.compress(b"{}" * 1000, mtime=0)[:-12], "damaged or cut off"),
        ("pairs.json", b"[{", "not valid JSON"),
        ("pairs.json", b"[3]", "row 1: a row must be a JSON object, this is a int"),
        ("pairs.csv", b"prompt,chosen\n\xff,x\n", "not UTF-8 text"),
        ("pairs.csv", b"prompt,chosen\na,b,c\n", "line 2: more cells than column names"),
        ("pairs.csv", b'prompt,chosen\n"a,b\n', "line 2: unexpected end of data"),
        ("pairs.parquet", b"PAR1 no", "not a readable parquet file"),
        ("pairs.txt", b"one", "the type '.txt' is not known"),
        ("pairs.jsonl", b"\n", "has no rows"),
        ("pairs.csv", b"prompt,chosen,rejected\n", "has no rows"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(name, content, message, tmp_path, config, tokenizer):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        load_pairs(config(path=str(tmp_path / name)), tokenizer)
    assert name in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_suggests_its_neighbour(tmp_path, config, tokenizer):
    as_file(ROWS, "jsonl", tmp_path)
    with pytest.raises(DataError, match=r"no such file or folder\. Did you mean 'pairs\.jsonl'\?"):
        load_pairs(config(path=str(tmp_path / "pair.jsonl")), tokenizer)


def test_a_name_that_is_no_path_and_no_hub_dataset_says_so(config, tokenizer):
    with pytest.raises(DataError, match="nobody/nothing is no path here, and no hub dataset"):
        load_pairs(config(path="nobody/nothing"), tokenizer)


def test_a_hub_dataset_gives_its_split_or_a_slice_of_it(config, tokenizer, monkeypatch):
    table = datasets.Dataset.from_list(ROWS)
    splits = datasets.DatasetDict({"train": table, "test": table.select([0])})
    slices = {None: splits, "train[:1]": table.select([1])}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split=None: slices[split])
    asked = [None, "train", "test", "train[:1]"]
    sizes = [len(load_pairs(config(path="some/pairs", split=split), tokenizer)[0]) for split in asked]
    assert sizes == [2, 2, 1, 1]
    with pytest.raises(DataError, match="some/pairs has no split 'tset'"):
        load_pairs(config(path="some/pairs", split="tset"), tokenizer)


def test_an_empty_folder_is_no_dataset(tmp_path, config, tokenizer):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty cannot be read as a dataset"):
        load_pairs(config(path=str(tmp_path / "empty")), tokenizer)


@pytest.mark.parametrize("kind", ["saved_splits", "folder"])
def test_a_split_is_chosen_and_an_unknown_one_suggests_the_nearest(kind, tmp_path, config, tokenizer):
    path = str(as_file(ROWS, kind, tmp_path))
    assert len(load_pairs(config(path=path), tokenizer)[0]) == 2
    assert len(load_pairs(config(path=path, split="test"), tokenizer)[0]) == 1
    with pytest.raises(DataError, match=r"no split 'tets'; it has: train, test\. Did you mean 'test'\?"):
        load_pairs(config(path=path, split="tets"), tokenizer)


@pytest.mark.parametrize("kind", ["jsonl", "saved"])
def test_a_single_table_is_train(kind, tmp_path, config, tokenizer):
    path = str(as_file(ROWS, kind, tmp_path))
    assert len(load_pairs(config(path=path, split="train"), tokenizer)[0]) == 2
    with pytest.raises(DataError, match="no split 'test'; it has: train"):
        load_pairs(config(path=path, split="test"), tokenizer)


def test_evaluation_reads_its_own_path_or_its_own_split(tmp_path, config, tokenizer):
    splits, single = str(as_file(ROWS, "saved_splits", tmp_path)), str(as_file(ROWS[:1] * 3, "jsonl", tmp_path))
    by_path = config(path=splits, eval_path=single)
    by_split = config(path=splits, eval_split="test")
    by_default = config(path=single, eval_path=splits)
    sizes = [len(load_pairs(data, tokenizer, evaluation=True)[0]) for data in (by_path, by_split, by_default)]
    assert sizes == [3, 1, 1]
    with pytest.raises(DataError, match="no rows to evaluate on"):
        load_pairs(config(path=splits), tokenizer, evaluation=True)


def test_sources_keep_their_order_names_and_weights(write, config, tokenizer):
    first, second = write(ROWS, "a.jsonl"), write(ROWS[:1], "b.jsonl")
    sources = (DataSource(first, None, 2.0), DataSource(second, "train", 1.0))
    dataset, report = load_pairs(config(sources=sources), tokenizer)
    assert dataset.sources == ("a.jsonl", "b.jsonl[train]")
    assert dataset.counts == (2, 1)
    assert dataset.weights == (2.0, 1.0)
    assert report.lines() == ["a.jsonl: 2 rows, 2 kept", "b.jsonl[train]: 1 rows, 1 kept"]


def test_sources_of_one_name_are_told_apart_by_their_folders(write, config, tokenizer):
    paths = write(ROWS, "a/train.jsonl"), write(ROWS, "b/train.jsonl")
    dataset, _ = load_pairs(config(sources=tuple(DataSource(path, None) for path in paths)), tokenizer)
    assert dataset.sources == paths


def test_a_source_listed_twice_or_with_a_weight_of_nothing_is_refused(write, config, tokenizer):
    source = DataSource(write(ROWS), None, 0.1)
    with pytest.raises(DataError, match="is listed twice; list it once and raise its `weight`"):
        load_pairs(config(sources=(source, source)), tokenizer)
    with pytest.raises(DataError, match=r"weight 0\.1 of 2 pairs is not a single pair per epoch"):
        load_pairs(config(sources=(source,)), tokenizer)


def test_a_table_that_is_not_utf8_names_the_line(tmp_path, config, tokenizer):
    path = tmp_path / "pairs.csv"
    rows = "".join(f"one,two {index},three\n" for index in range(40))
    path.write_bytes(f"prompt,chosen,rejected\n{rows}".encode() + "caf\u00e9,two,three\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"pairs\.csv, line 42: not UTF-8 text"):
        load_pairs(config(path=str(path)), tokenizer)


def test_a_credential_in_the_name_of_a_file_is_not_the_name_of_its_source(tmp_path, config):
    path = tmp_path / "hf_canarycanarycanary1.jsonl"
    path.write_text("{}\n")
    [source] = named_sources(config(path=str(path)))
    assert (source.name, source.path) == ("***.jsonl", str(path))
