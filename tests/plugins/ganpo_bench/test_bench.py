"""The benchmark on a tiny shape: what it times, how it talks to its children, and what it reports."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ganpo_bench import peer
from ganpo_bench.compare import PEER, Request, compare
from ganpo_bench.lengths import draw_lengths, read_lengths
from ganpo_bench.overhead import overheads
from ganpo_bench.prepare import from_shape, ordered_rows, parse_variant, run_of
from ganpo_bench.report import Budget, Result, ratios, spread
from ganpo_bench.sides import Side, take_turns
from ganpo_bench.start import time_start
from ganpo_bench.sweep import sweep

import ganpo_core
from ganpo_core import ConfigError, DataError, GanpoError, TrainingError
from ganpo_core.cli.main import main
from ganpo_core.config import load_run

TINY = Request(
    shape="tiny", against="none", steps=2, variants=("dpo", "ganpo"), lengths="ultrafeedback", scale_lengths=0.03, threads=1
)

FAKE = """\
import json, sys
spec = json.load(open(sys.argv[2]))
for line in sys.stdin:
    order = json.loads(line)
    facts = [{{"loss": {loss}, "logps/chosen": -1.0, "logps/rejected": -1.0}}] * order["steps"]
    memory = {{"before": 100, "peak": 150}}
    versions = {{"trl": "0.0", "rows": str(len(spec["rows"]))}}
    print(json.dumps({{"seconds": [0.5] * order["steps"], "facts": facts, "memory": memory, "versions": versions}}), flush=True)
"""


def fake_python(folder: Path, text: str) -> str:
    """An interpreter that runs this instead of what it is given."""
    script, shell = folder / "fake.py", folder / "python"
    script.write_text(text, encoding="utf-8")
    shell.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n', encoding="utf-8")
    shell.chmod(0o755)
    return str(shell)


def side(name: str, folder: Path, text: str) -> Side:
    (folder / name).mkdir()
    (folder / name / "spec.json").write_text('{"rows": []}', encoding="utf-8")
    command = [fake_python(folder / name, text), "peer.py", str(folder / name / "spec.json")]
    return Side(name, command, dict(os.environ), folder / f"{name}.log")


# -- the comparison ------------------------------------------------------------------------------------------------------


def test_our_variants_are_timed_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "results" / "bench.json"
    arguments = ["--shape", "tiny", "--steps", "2", "--scale-lengths", "0.03", "--threads", "1", "--json", str(written)]
    monkeypatch.setattr(sys, "argv", ["ganpo", "bench", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    out = capsys.readouterr().out
    assert "tiny: 2 pairs and " in out
    assert [line.split()[0] for line in out.splitlines() if line.strip().startswith(("dpo ", "ganpo "))] == ["dpo", "ganpo"]
    found = json.loads(written.read_text(encoding="utf-8"))
    assert set(found["sides"]) == {"dpo", "ganpo"}
    assert {"ganpo/dpo", "dpo/ganpo"} <= set(found["ratios"])
    assert len(found["tokens"]) == len(found["sides"]["dpo"]["seconds"]) == 2
    assert found["ratios"]["ganpo/dpo"] == pytest.approx(
        found["sides"]["ganpo"]["median"] / found["sides"]["dpo"]["median"]
    )
    assert {"cpu", "cores", "threads", "device", "versions", "date"} <= set(found["machine"])


def test_a_peer_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    request = {**vars(TINY), "against": "trl", "variants": ("dpo",), "steps": 1}
    with pytest.raises(TrainingError, match=r"dpo and the peer disagree in the first step: .*\"loss\": 0\.1"):
        compare(Request(**{**request, "peer_python": fake_python(tmp_path, FAKE.format(loss=0.593147))}))


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed: pip install 'ganpo[bench]'")
def test_trl_computes_the_same_loss() -> None:
    found = compare(Request(**{**vars(TINY), "against": "trl", "variants": ("dpo",), "accumulation": 2}))
    assert set(found["sides"]) == {"dpo", PEER}
    assert {f"dpo/{PEER}", f"memory:dpo/{PEER}"} <= set(found["ratios"])
    assert max(found["first_step_differences"].values()) < 1e-5


def test_more_tokens_a_step_take_longer() -> None:
    found = sweep(Request(**{**vars(TINY), "variants": ("dpo",), "steps": 1}), [1024, 4096])
    assert [row["tokens"] for row in found["sweep"]] == [1024, 4096]
    assert found["sweep"][-1]["relative"] == 1


def test_start_times_are_beside_a_bare_import_of_torch() -> None:
    found = time_start(1)
    assert found["over_torch"]["import torch"] == 0
    assert set(found["seconds"]) == {"import torch", "ganpo --help", "ganpo plugins", "ganpo check RUN"}


# -- children ------------------------------------------------------------------------------------------------------------


def test_blocks_alternate_and_turn_round(tmp_path: Path) -> None:
    sides = [side(name, tmp_path, FAKE.format(loss=0.7)) for name in ("one", "two")]
    lines = list(take_turns(sides, steps=3, block=2, warm_up=1, apart=False))
    assert [line.partition(",")[0] for line in lines] == [
        "one: warm",
        "two: warm",
        "one: 2/3 steps",
        "two: 2/3 steps",
        "two: 3/3 steps",
        "one: 3/3 steps",
    ]
    assert sides[0].seconds == [0.5] * 3
    assert len(sides[0].facts) == 4  # the warm-up's too
    assert sides[0].memory == [{"before": 100, "peak": 150}] * 2
    assert all(each._process is None for each in sides)


def test_apart_each_side_ends_before_the_next_begins(tmp_path: Path) -> None:
    sides = [side(name, tmp_path, FAKE.format(loss=0.7)) for name in ("one", "two")]
    lines = list(take_turns(sides, steps=1, block=1, warm_up=1, apart=True))
    assert [line.partition(":")[0] for line in lines] == ["one", "one", "two", "two"]


def test_a_side_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    failing = side("one", tmp_path, "import sys\nsys.stdin.readline()\nraise SystemExit('no such device')\n")
    with pytest.raises(GanpoError, match="bench: one ended with status 1: no such device"):
        list(take_turns([failing], steps=1, block=1, warm_up=1, apart=False))


def test_the_peak_is_measured_anew_for_every_block() -> None:
    before = peer.settle_memory()
    if before is None:
        pytest.skip("this system does not tell")
    held = torch.ones(25_000_000)
    peak = peer.peak_memory()
    assert peak is not None
    assert peak - before > 90e6
    del held
    peer.settle_memory()
    after = peer.peak_memory()
    assert after is not None
    assert after < peak - 50e6


# -- rows and runs -------------------------------------------------------------------------------------------------------


def test_the_peer_gets_the_rows_in_the_order_of_our_run(tmp_path: Path) -> None:
    lengths = np.array([[5, 4, 3], [2, 6, 7], [4, 2, 9], [3, 3, 3]])
    job = from_shape("tiny", lengths, tmp_path, "float32", False, 2, 1)
    rows, pad = ordered_rows(job, 2)
    assert pad == 0
    got = sorted([len(row["prompt"]), len(row["chosen"]), len(row["rejected"])] for row in rows)
    assert got == sorted(lengths.tolist())
    assert all(row["chosen"][-1] == 1 for row in rows)  # the end of sequence


def test_variants_combine_a_method_and_a_layout(tmp_path: Path) -> None:
    assert parse_variant("ganpo") == ("ganpo", None)
    assert parse_variant("padded") == ("dpo", "padded")
    assert parse_variant("ganpo_simpo-padded") == ("ganpo_simpo", "padded")
    with pytest.raises(ConfigError, match="--variants: 'ganpoo' is not known"):
        parse_variant("ganpoo")
    job = from_shape("tiny", np.array([[5, 4, 3]]), tmp_path, "float32", False, None, 1)
    run = load_run(run_of(job, "ganpo_simpo", tmp_path / "out"))
    assert type(run.objective).__name__ == "SimPO"
    assert [plan.divergence is not None for plan in run.adversaries] == [True]
    assert not load_run(run_of(job, "dpo", tmp_path / "out")).adversaries


def test_lengths_are_like_ultrafeedbacks() -> None:
    """Means 178, 365 and 340; padded tokens a pair 1336, 1714, 2126 and 2554 in batches of 1, 2, 4 and 8 pairs."""
    table = draw_lengths("ultrafeedback", 40_000, seed=0)
    assert table.mean(axis=0) == pytest.approx([178, 365, 340], rel=0.02)
    longest = table[:, 0] + table[:, 1:].max(axis=1)
    assert longest.max() <= 2048
    for pairs, padded in ((1, 1336), (2, 1714), (4, 2126), (8, 2554)):
        assert 2 * longest.reshape(-1, pairs).max(axis=1).mean() == pytest.approx(padded, rel=0.02)


def test_lengths_are_read_from_counts_and_from_tokens(tmp_path: Path) -> None:
    path = tmp_path / "lengths.jsonl"
    path.write_text('[3, 2, 1]\n{"prompt": [7, 7], "chosen": 5, "rejected": [1]}\n', encoding="utf-8")
    assert read_lengths(path).tolist() == [[3, 2, 1], [2, 5, 1]]
    path.write_text('{"prompt": 3}\n', encoding="utf-8")
    with pytest.raises(DataError, match="expected rows of prompt, chosen and rejected lengths"):
        read_lengths(path)


# -- the report ----------------------------------------------------------------------------------------------------------


def result(name: str, seconds: list[float], peak: int, critics: float = 0.0) -> Result:
    timed = Side(name, (), {}, Path())
    timed.seconds, timed.memory = seconds, [{"before": 1000, "peak": peak}]
    return Result.of(timed, [100] * len(seconds), Budget(200.0, critics, 1.0), None)


def test_memory_is_what_a_step_holds_beyond_model_and_optimizer() -> None:
    """Peak 1600 of which 1000 were there before and 200 are gradients: 400; critics of 30 count as the step's own."""
    assert result("dpo", [1.0], 1600).beyond == 400
    assert result("ganpo", [1.0], 1600, critics=30.0).beyond == 430


def test_ratios_are_of_medians_and_their_spread_is_of_equal_steps() -> None:
    fast, slow = result("ganpo", [1.0, 2.0, 3.0], 1300), result("trl_dpo", [2.0, 4.0, 12.0], 1600)
    assert ratios([fast, slow]) == {
        "ganpo/trl_dpo": 0.5,
        "trl_dpo/ganpo": 2.0,
        "memory:ganpo/trl_dpo": 0.25,
        "memory:trl_dpo/ganpo": 4.0,
    }
    assert spread(fast, slow) == (0.375, 0.5)
    assert fast.tokens_per_second == 50


# -- the overhead --------------------------------------------------------------------------------------------------------


def test_overheads_are_ratios_of_medians_to_both_bases() -> None:
    """GANPO takes 1.1 of DPO; over SimPO 1.8, over SimPO with a reference pass 1.2."""
    seconds = {"dpo": 1.0, "ganpo": 1.1, "simpo": 0.5, "simpo_reference": 0.75, "ganpo_simpo": 0.9}
    sides = {name: {"median": s, "seconds": [s, s, s], "peak_bytes": 100 * s} for name, s in seconds.items()}
    over_dpo, over_simpo = overheads({"sides": sides})
    assert over_dpo["over_base"] == over_dpo["over_base_and_reference"] == pytest.approx(10)
    assert over_simpo["over_base"] == pytest.approx(80)
    assert over_simpo["over_base_and_reference"] == pytest.approx(20)
    assert over_simpo["over_base_quartiles"] == pytest.approx([80, 80])
    assert over_simpo["peak_over_base"] == pytest.approx(80)


def test_simpo_beside_a_reference_pass_is_simpo(tmp_path: Path) -> None:
    """The same losses step by step, and the reference is run."""
    rows = draw_lengths("hh", 8, 0, 0.05)
    job = from_shape("tiny", rows, tmp_path, "float32", False, 2, 1)
    losses = {}
    for variant in ("simpo", "simpo_reference"):
        run = run_of(job, variant, tmp_path / variant)
        run["training"]["max_steps"] = 2
        config = load_run(run)
        assert config.objective.needs_reference == (variant == "simpo_reference")
        folder = ganpo_core.train(run)
        losses[variant] = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert losses["simpo"] == losses["simpo_reference"]


def test_overhead_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"dpo": 1.0, "ganpo": 1.1, "simpo": 0.5, "simpo_reference": 0.75, "ganpo_simpo": 0.9}
    sides = {name: {"median": s, "seconds": [s, s], "peak_bytes": None} for name, s in seconds.items()}
    monkeypatch.setattr("ganpo_bench.compare.compare", lambda request: {"sides": sides, "variants": list(request.variants)})
    monkeypatch.setattr(sys, "argv", ["ganpo", "bench", "overhead", "--shape", "tiny", "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    saved = json.loads((tmp_path / "overhead.json").read_text())
    assert saved["overhead"][0]["over_base"] == pytest.approx(10)
    assert (tmp_path / "overhead.png").read_bytes()[:4] == b"\x89PNG"
    assert "paper (arXiv 2601.22083, text of Table 4)" in capsys.readouterr().out
