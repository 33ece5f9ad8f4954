"""Each command on a tiny finished run: the table, its numbers, the JSON file and the picture."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ganpo_evaluation.ablation import Grid, combinations
from ganpo_evaluation.alpaca import Annotations
from ganpo_evaluation.buckets import by_length
from ganpo_evaluation.correlation import correlate
from ganpo_evaluation.function import Function
from ganpo_evaluation.language_model import LanguageModel, load_language_model
from ganpo_evaluation.pairs import accuracy
from ganpo_evaluation.sampling import Sampling
from scipy import stats
from typer.testing import CliRunner, Result

from ganpo_core import ConfigError, DataError
from ganpo_core.cli.main import make_app

JUDGE = "def score(prompt, response):\n    return response.split().count('w1') - 0.1 * len(response.split())\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a judge and prompts."""
    draw = random.Random(0)
    (tmp_path / "judge.py").write_text(JUDGE)
    rows = [{"prompt": f"<bos> w{draw.randrange(20)} w{draw.randrange(20)}"} for _ in range(12)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def ganpo(*arguments: object, code: int = 0) -> Result:
    found = CliRunner().invoke(make_app(), [str(argument) for argument in arguments], catch_exceptions=False)
    assert found.exit_code == code, found.output
    return found


def saved(folder: Path, name: str) -> dict[str, Any]:
    assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


def test_temperature_carries_the_matched_column_and_the_colder_reference(run: Path, files: Path) -> None:
    ganpo(
        "evaluate", "temperature", run, "--prompts", files / "prompts.jsonl", "--judge", "function", "--with",
        f"path={files / 'judge.py'}", "--temperatures", "0,1,1.5", "--max-new-tokens", 8, "--sequences", 12, "--output", files,
    )
    rows = saved(files, "temperature")["rows"]
    names = [row["policy"] for row in rows]
    reference = names[0]
    assert names == [reference] * 3 + ["ganpo"] * 5 + [f"{reference} colder, as sure as ganpo at 1"]
    mine = [row for row in rows if row["policy"] == "ganpo"]
    assert [(row["against T"], row["matched"]) for row in mine] == [(0, False), (1, False), (1, True), (1.5, False), (1.5, True)]
    theirs = {row["T"]: row["entropy"] for row in rows[:3]}
    assert theirs[0.0] == 0
    for row in mine:
        if row["matched"]:
            assert row["entropy"] == pytest.approx(theirs[row["against T"]], rel=1e-6)
            assert 0.2 < row["T"] < 5 * row["against T"]
        else:
            assert row["T"] == row["against T"]
    assert rows[-1]["entropy"] == pytest.approx(mine[1]["entropy"], rel=1e-6)
    # Greedy decoding does not see the luck: the reference against itself ties on every prompt.
    assert rows[0]["win"] == 0.5
    assert reference.startswith("reference ")
    assert mine[1]["win low"] <= mine[1]["win"] <= mine[1]["win high"]


def test_a_policy_that_is_its_reference_is_matched_at_the_same_temperature(tiny_model: Path, files: Path) -> None:
    import shutil

    shutil.copytree(tiny_model, files / "copy")
    data = files / "pairs.jsonl"
    data.write_text('{"prompt": "<bos> w1", "chosen": " w2 w3", "rejected": " w4"}\n')
    ganpo(
        "evaluate", "temperature", files / "copy", "--reference", tiny_model, "--prompts", files / "prompts.jsonl", "--judge",
        "function", "--with", f"path={files / 'judge.py'}", "--temperatures", "1.25", "--max-new-tokens", 6,
        "--entropy-data", data, "--output", files,
    )
    reference, plain, policy, colder = saved(files, "temperature")["rows"]
    assert (plain["matched"], policy["matched"]) == (False, True)
    assert policy["T"] == pytest.approx(1.25, rel=1e-5)
    assert colder["T"] == pytest.approx(1.0, rel=1e-5)
    assert (policy["score"], policy["win"], policy["length"]) == (reference["score"], reference["win"], reference["length"])


def test_critic_correlation_has_a_row_for_each_judge_and_temperature(run: Path, files: Path) -> None:
    ganpo(
        "evaluate", "critic-correlation", run, "--prompts", files / "prompts.jsonl", "--judge", "function", "--with",
        f"path={files / 'judge.py'}", "--proxy", "implicit_reward", "--proxy-with", f"run={run}", "--pool", 30,
        "--max-new-tokens", 8, "--output", files,
    )
    found = saved(files, "critic_correlation")
    assert [(row["judge"], row["T"]) for row in found["rows"]] == [
        ("discriminator", 1.5), ("implicit reward", 1.5), ("discriminator", 2.0), ("implicit reward", 2.0)
    ]
    assert all(row["points"] == 30 and -1 <= row["pearson"] <= 1 for row in found["rows"])
    assert found["paper"]["rows"][0]["pearson"] == 0.59


@pytest.mark.parametrize("mode", ["single", "per_prompt"])
def test_a_judge_that_is_the_oracle_correlates_perfectly(mode: Any, run: Path) -> None:
    def oracle(prompts: Any, responses: Any) -> list[float]:
        return [float(len(response)) for response in responses]

    def against(prompts: Any, responses: Any) -> list[float]:
        return [-2.0 * len(response) for response in responses]

    found = correlate(
        load_language_model(str(run)), ["<bos> w1", "<bos> w2 w3"], [1.5], {"same": oracle, "against": against}, oracle, 8, mode,
        Sampling(max_new_tokens=10), {},
    )
    assert [row["pearson"] for row in found.rows] == pytest.approx([1, -1])


def test_buckets_hold_what_they_say() -> None:
    """Lengths 1 to 100; wins where longer than 60: quintiles at 0, 0, 0, 1, 1; the slope is scipy's."""
    lengths = tuple(range(1, 101))
    wins = tuple(float(length > 60) for length in lengths)
    result = by_length([Annotations("m", "b", "j", wins, lengths, lengths, 0)], "quantile:5", {})
    assert [row["win rate"] for row in result.rows] == pytest.approx([0, 0, 0, 100, 100])
    assert [row["answers"] for row in result.rows] == [20] * 5
    theirs = stats.binomtest(20, 20).proportion_ci(0.95, method="wilson")
    assert result.rows[3]["low"] == pytest.approx(100 * theirs.low)
    slope = 1e5 * stats.linregress(lengths, wins).slope
    assert f"{slope:+.2f} points of win rate for 1000 more characters" in result.notes[1]
    given = by_length([Annotations("m", "b", "j", wins, lengths, lengths, 0)], "0,60,100", {})
    assert [row["answers"] for row in given.rows] == [59, 41]
    with pytest.raises(DataError, match="lengths go from 1 to 100, beyond 0,50"):
        by_length([Annotations("m", "b", "j", wins, lengths, lengths, 0)], "0,50", {})


def test_length_buckets_of_real_annotations(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "eval" / "alpaca_eval" / "annotations_weighted_gpt4_turbo" / "gemma-2b-it.json"
    ganpo("evaluate", "length-buckets", "--annotations", path, "--output", tmp_path)
    rows = saved(tmp_path, "length_buckets")["rows"]
    assert sum(row["answers"] for row in rows) == 805
    whole = np.average([row["win rate"] for row in rows], weights=[row["answers"] for row in rows])
    assert whole == pytest.approx(3.40197, abs=1e-4)


def test_accuracy_counts_a_tie_as_one_half(files: Path) -> None:
    """By length, longer is better: right, wrong, tie -> 1.5 of 3; the longer one is chosen as often."""
    judge = files / "longest.py"
    judge.write_text("def score(prompt, response):\n    return len(response)\n")
    rows = [
        {"prompt": "a", "chosen": "xxx", "rejected": "x", "category": "one"},
        {"prompt": "a", "chosen": "x", "rejected": "xxx", "category": "two"},
        {"prompt": [{"role": "user", "content": "a"}], "category": "two",
         "chosen": [{"role": "assistant", "content": "xy"}], "rejected": [{"role": "assistant", "content": "zz"}]},
    ]
    data = files / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = accuracy(Function(str(judge)), "function", data, None)
    parts = [(row["pairs"], row["accuracy"], row["ties"]) for row in found.rows]
    assert parts == [("all", 0.5, 1), ("one", 1.0, 0), ("two", 0.25, 1)]
    assert "right on 50.0%" in found.notes[0]


def test_a_policys_implicit_reward_on_llmbar(shared: Path, tmp_path: Path) -> None:
    """A model against itself ties on every pair: one half, whatever the pairs."""
    model = shared / "models" / "stories260K"
    ganpo(
        "evaluate", "pairs", "--data", shared / "data" / "extra" / "llmbar.jsonl", "--judge", "implicit_reward", "--with",
        f"run={model}", "--with", f"reference={model}", "--limit", 8, "--output", tmp_path,
    )
    rows = saved(tmp_path, "pairs")["rows"]
    assert (rows[0]["accuracy"], rows[0]["ties"], rows[0]["count"]) == (0.5, 8, 8)


# -- ganpo ablate --------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_of_rows_and_values() -> None:
    rows = {"plain": {}, "held": {"divergence": {"use": "mse"}}}
    grid = Grid("b.yaml", "out", {"seed": (0, 1), "objective.beta": (0.1, 0.5)}, rows)
    found = list(combinations(grid))
    assert len(found) == 8
    assert found[0] == ("plain,seed=0,objective.beta=0.1", {"seed": 0, "objective.beta": 0.1})
    assert found[-1][1] == {"divergence": {"use": "mse"}, "seed": 1, "objective.beta": 0.5}
    with pytest.raises(ConfigError, match=r"rows\.plain: seed is in the grid too"):
        list(combinations(Grid("b.yaml", "out", {"seed": (0,)}, {"plain": {"seed": 1}})))


def test_an_ablation_trains_judges_and_resumes(tiny_model: Path, tiny_pairs: Path, files: Path) -> None:
    base = {
        "model": {"path": str(tiny_model)}, "data": {"path": str(tiny_pairs)}, "objective": {"use": "dpo"},
        "training": {"max_steps": 2, "per_device_train_batch_size": 4, "save_steps": None}, "output_dir": "unused",
    }
    (files / "base.yaml").write_text(yaml.safe_dump(base))
    grid = {
        "base": "base.yaml", "output_dir": "table", "grid": {"objective.beta": [0.1, 0.5]},
        "rows": {"plain": {}, "broken": {"training.max_steps": -1}},
        "judging": {
            "judge": {"use": "function", "path": str(files / "judge.py")}, "prompts": "prompts.jsonl", "temperatures": [1.0],
            "max_new_tokens": 6,
        },
    }
    (files / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    found = ganpo("ablate", files / "grid.yaml", code=1)
    assert "broken,objective.beta=0.1: failed: command line: training.max_steps: must be greater than 0, got -1" in found.output
    first = saved(files / "table", "ablation")
    mine = [row for row in first["rows"] if row.get("policy") == "plain,objective.beta=0.1"]
    assert [row["matched"] for row in mine] == [False, True]
    assert mine[0]["objective.beta"] == "0.1"
    assert mine[0]["step"] == 2
    assert {"score", "win", "against T", "loss"} <= set(mine[0])
    assert sum("error" in row for row in first["rows"]) == 2
    marks = {path: path.stat().st_mtime_ns for path in (files / "table").rglob("*.safetensors")}
    again = ganpo("ablate", files / "grid.yaml", "--only", "plain")
    assert "nothing to do" in again.output + again.stderr
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    assert saved(files / "table", "ablation")["rows"] == [row for row in first["rows"] if "error" not in row]


def test_a_grids_mistakes_are_named(files: Path) -> None:
    (files / "grid.yaml").write_text("base: b.yaml\noutput_dir: o\ngrids: {seed: [1]}\n")
    with pytest.raises(ConfigError, match=r"grid\.yaml\.grids: unknown option\. Did you mean 'grid'\?"):
        ganpo("ablate", files / "grid.yaml")


# -- ganpo evaluate downstream -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_a_task_of_ones_own_through_lm_eval(run: Path, files: Path) -> None:
    """Two choices, of which the model's likelier one is right by construction."""
    pytest.importorskip("lm_eval", reason="Table 2 is made by lm-eval")
    import torch

    policy: LanguageModel = load_language_model(str(run))
    ids = torch.tensor([policy.tokenizer("<bos> w1")["input_ids"]])
    logits = policy.model(input_ids=ids).logits[0, -1]
    choices = ["w2", "w3"]
    best = max(range(2), key=lambda place: logits[policy.tokenizer.convert_tokens_to_ids(choices[place])].item())
    (files / "tiny.jsonl").write_text(json.dumps({"prompt": "<bos> w1", "label": best}) + "\n")
    task = {
        "task": "tiny_words", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(files / "tiny.jsonl")}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_target": "label",
        "doc_to_choice": choices, "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (files / "tasks").mkdir()
    (files / "tasks" / "tiny_words.yaml").write_text(yaml.safe_dump(task))
    ganpo("evaluate", "downstream", run, "--tasks", "tiny_words", "--include", files / "tasks", "--output", files)
    rows = saved(files, "downstream")["rows"]
    assert [(row["task"], row["measure"], row["value"]) for row in rows] == [("tiny_words", "acc", 1.0)]
