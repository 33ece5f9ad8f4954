"""Single responses with a label: read, batched, trained on, with and without an adversary."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import ganpo_core
from ganpo_core.assemble import assemble
from ganpo_core.config import load_run
from ganpo_core.data import TokenPair, collate
from ganpo_core.data.flaws import RowError
from ganpo_core.data.formats import ChatPair, TextPair, parse_row
from ganpo_core.errors import ConfigError, DataError
from ganpo_core.forward import response_pass
from ganpo_core.metrics import MetricSums
from ganpo_core.run import Run
from ganpo_core.step import train_step

MakeRun = Callable[..., dict[str, Any]]
TAKING = ("kto", "bco", "nca", "apo_zero", "sppo")


@pytest.fixture(scope="module")
def unpaired(tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sides of the tiny pairs as rows of their own, less a few of them, shuffled."""
    rows = []
    for line in tiny_pairs.read_text().splitlines():
        pair = json.loads(line)
        rows += [
            {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
            for side in ("chosen", "rejected")
        ]
    random.Random(0).shuffle(rows)
    path = tmp_path_factory.mktemp("unpaired") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:40]))
    return path


def made(run_file: dict[str, Any]) -> Run:
    return assemble(load_run(run_file), Accelerator())


@pytest.mark.parametrize("regularizer", ["alone", "mse", "ragan"])
@pytest.mark.parametrize("use", TAKING)
def test_objectives_of_single_responses_train_on_them(
    use: str, regularizer: str, tiny_run: MakeRun, unpaired: Path
) -> None:
    sections: dict[str, Any] = {}
    if regularizer != "alone":
        sections = {
            "latents": {"use": "hidden_state"},
            "divergence": {"use": regularizer},
            "discriminator": {"use": "mlp", "hidden_dim": 8},
            "adversary": {"weight_warmup_ratio": 0},
        }
    run_file = tiny_run(objective={"use": use}, data={"path": str(unpaired), "eval_path": str(unpaired)}, **sections)
    run_file["training"] = {
        "learning_rate": 1e-3, "max_steps": 3, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2,
        "logging_steps": 1, "save_steps": None,
    }
    folder = ganpo_core.train(run_file)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert {"rewards/chosen", "rewards/rejected"} <= lines[0].keys()
    assert "rewards/margins" not in lines[0]
    assert "eval_objective_loss" in lines[-1]


def test_an_objective_of_pairs_says_which_ones_can(tiny_run: MakeRun, unpaired: Path) -> None:
    with pytest.raises(DataError, match="objective 'dpo' compares two responses") as caught:
        made(tiny_run(data={"path": str(unpaired)}))
    assert all(name in str(caught.value) for name in TAKING)
    assert "rspo" not in str(caught.value)


def test_responses_are_scored_as_in_a_pair(tiny_run: MakeRun) -> None:
    """The two sides of a pair, given as single responses, have the log-probabilities that the pair has."""
    run = made(tiny_run())
    pair = run.pairs[0]
    singles = [
        TokenPair(pair.prompt, pair.chosen, (), "a", 1),
        TokenPair(pair.prompt, (), pair.rejected, "a", 2),
    ]
    model = run.models.policy
    together = response_pass(model, model, collate([pair], 0)).logps
    apart = response_pass(model, model, collate(singles, 0)).logps
    assert together is not None and apart is not None
    assert apart.chosen.total.tolist() == pytest.approx([together.chosen.total.item(), 0.0], rel=1e-5)
    assert apart.rejected.total.tolist() == pytest.approx([0.0, together.rejected.total.item()], rel=1e-5)


def test_absent_sides_are_empty_rows() -> None:
    batch = collate([TokenPair((1, 5), (6, 2), (), "a", 1), TokenPair((1, 5, 7), (), (8, 9, 2), "a", 2)], 0)
    assert batch.desirable is not None and batch.desirable.tolist() == [True, False]
    assert batch.layout.input_ids.tolist() == [[1, 5, 6, 2, 0, 0], [1, 5, 7, 8, 9, 2]]
    assert batch.tokens.valid.sum(1).tolist() == [4, 0, 0, 6]
    assert batch.tokens.response.sum(1).tolist() == [2, 0, 0, 3]
    assert batch.lengths == ((2, 2, 0), (3, 0, 3))


def test_adversary_sees_no_latents_where_there_is_no_response(tiny_run: MakeRun, unpaired: Path) -> None:
    from ganpo_core.types import Layer

    run = made(tiny_run(objective={"use": "kto"}, data={"path": str(unpaired)}))
    batch = run.window(0)[0]
    states = response_pass(run.models.policy, run.models.policy, batch, (Layer(-1),)).captured[Layer(-1)]
    assert states.shape[0] == 8
    assert bool((states[~batch.tokens.valid.any(1)] == 0).all())
    assert bool((states[batch.tokens.valid.any(1)] != 0).any())


@pytest.mark.parametrize("label", [True, 1, "true", "1"])
def test_text_rows_are_read(label: object) -> None:
    assert parse_row({"prompt": "a", "completion": " b", "label": label}) == TextPair("a", " b", " b", True)


def test_conversations_are_read() -> None:
    asked, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    wanted = ChatPair([asked], [answer], [answer], label=False)
    assert parse_row({"prompt": [asked], "completion": [answer], "label": False}) == wanted
    assert parse_row({"prompt": "a", "completion": [answer], "label": 0}) == wanted


@pytest.mark.parametrize(
    ("row", "flaw"),
    [
        ({"prompt": "a", "completion": "b", "label": "good"}, "bad_label"),
        ({"prompt": "a", "completion": "b", "label": None}, "bad_label"),
        ({"prompt": " ", "completion": "b", "label": True}, "empty_prompt"),
        ({"prompt": "a", "completion": " ", "label": True}, "empty_response"),
        ({"completion": "b", "label": True}, "missing_value"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "preference": 1.5}, "bad_preference"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "preference": "often"}, "bad_preference"),
    ],
)
def test_flawed_rows_are_refused(row: dict[str, object], flaw: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_row(row)
    assert caught.value.flaw == flaw


def test_pairs_and_single_responses_do_not_mix(tiny_run: MakeRun, tiny_pairs: Path, unpaired: Path) -> None:
    mixed = {"sources": [{"path": str(tiny_pairs)}, {"path": str(unpaired)}]}
    with pytest.raises(DataError, match="some rows are pairs"):
        made(tiny_run(objective={"use": "kto"}, data=mixed))


def test_a_missing_column_is_named(tiny_run: MakeRun, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "<bos> w1", "completion": " w2"}\n')
    with pytest.raises(DataError, match=r"has no column label; .* Rename the columns to prompt, completion and label"):
        made(tiny_run(objective={"use": "kto"}, data={"path": str(path)}))


def test_a_weighted_sum_takes_them_where_every_part_does(tiny_run: MakeRun, unpaired: Path) -> None:
    parts = [{"use": "kto"}, {"use": "bco", "weight": 0.5}]
    run = made(tiny_run(objective={"use": "weighted", "objectives": parts}, data={"path": str(unpaired)}))
    assert run.config.objective.takes_unpaired
    metrics = MetricSums(run.models.device)
    train_step(run, run.window(0), 0, metrics)
    # 1/2 for kto, and half of log 2 for bco, at the start
    assert metrics.means(lambda table: table)["objective_loss"] == pytest.approx(0.5 + 0.5 * math.log(2), rel=1e-4)
    with pytest.raises(DataError, match="objective 'weighted' compares two responses"):
        made(tiny_run(objective={"use": "weighted"}, data={"path": str(unpaired)}))
    assert torch.is_grad_enabled()


REGULARIZERS: dict[str, dict[str, Any]] = {
    "mse": {"divergence": {"use": "mse"}},
    "ragan": {"divergence": {"use": "ragan"}, "discriminator": {"use": "linear"}},
    "ragan, one-sided": {
        "divergence": {"use": "ragan"}, "discriminator": {"use": "mlp", "hidden_dim": 8},
        "adversary": {"form": "non_saturating", "schedule": "alternating"},
    },
    "rpgan": {
        "divergence": {"use": "rpgan"}, "discriminator": {"use": "mlp", "hidden_dim": 8},
        "adversary": {"form": "non_saturating", "cross_weight": 0.0},
    },
}


@pytest.mark.parametrize("latents", [{"use": "hidden_state"}, {"use": "hidden_state", "every": 9}, {"use": "pooled"}], ids=str)
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_splitting_a_step_changes_no_regularizer(
    regularizer: str, latents: dict[str, Any], tiny_run: MakeRun, unpaired: Path, tmp_path: Path
) -> None:
    """1 x 8 = 8 x 1, where a micro-batch holds a chosen or a rejected response and the other side is empty."""
    found = {}
    sections = REGULARIZERS[regularizer]
    adversary = {"weight_warmup_ratio": 0, "weight": 5.0, "learning_rate": 0.05, **sections.get("adversary", {})}
    for size, accumulation in ((8, 1), (1, 8), (4, 2)):
        run_file = tiny_run(
            objective={"use": "kto", "beta": 0.5}, data={"path": str(unpaired)}, latents=latents,
            **{**sections, "adversary": adversary},
        )
        run_file["model"]["dtype"] = "float64"
        run_file["training"] = {
            "learning_rate": 0.1, "max_steps": 3, "logging_steps": 1, "save_steps": None,
            "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation,
        }
        folder = ganpo_core.train({**run_file, "output_dir": str(tmp_path / f"{size}x{accumulation}")})
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found[size] = [(line["loss"], line["adversary/penalty"]) for line in lines]
    assert found[8][-1][1] > 0
    assert found[1] == [pytest.approx(pair, rel=1e-7) for pair in found[8]]
    assert found[4] == [pytest.approx(pair, rel=1e-7) for pair in found[8]]


def test_absent_sides_count_in_no_metric_of_a_critic(tiny_run: MakeRun, unpaired: Path) -> None:
    """A micro-batch of one response has one row of one side: gap and accuracy are that row's, not halved by an empty one."""
    run_file = tiny_run(
        objective={"use": "kto"}, data={"path": str(unpaired)}, latents={"use": "hidden_state"},
        divergence={"use": "ragan"}, discriminator={"use": "linear"}, adversary={"form": "non_saturating"},
    )
    run_file["training"] = {"learning_rate": 0.1, "max_steps": 1, "per_device_train_batch_size": 8, "save_steps": None}
    run = made(run_file)
    metrics = MetricSums(run.models.device)
    (batch,) = run.window(0)
    train_step(run, [batch], 0, metrics)
    present = batch.tokens.valid.any(1).view(2, -1).sum(1)
    assert 0 < int(present[0]) < 8 and int(present.sum()) == 8
    for side, count in zip(("chosen", "rejected"), present.tolist(), strict=True):
        for name in ("gap", "accuracy", "score_anchor", "score_policy", "overshoot"):
            assert float(metrics.sums[f"adversary/{side}/{name}"][1]) == count
        # No pair holds both sides: nothing is compared across them.
        assert float(metrics.sums[f"adversary/{side}/gap_cross"][1]) == 0


def test_absent_sides_are_not_scored(tiny_run: MakeRun, unpaired: Path) -> None:
    critic = {"latents": {"use": "hidden_state"}, "divergence": {"use": "ragan"}, "discriminator": {"use": "linear"}}
    run_file = tiny_run(objective={"use": "kto"}, data={"path": str(unpaired)}, **critic)
    with pytest.raises(ConfigError, match="masked: false would score the absent sides of single responses"):
        made({**run_file, "adversary": {"masked": False}})
