"""Every sentence on one run, from metrics made by hand; and its silence where nothing is to be said."""

from __future__ import annotations

import math
from typing import Any

import pytest
from ganpo_report import findings as rules
from ganpo_report.findings import findings, shift_per_token
from run_samples import CARD, MakeRun, lines

SHAPE = {"accuracy": 0.8, "gap": 0.5, "score_anchor": 0.5, "score_policy": 0.0, "score_cross": -0.5}


def game(**changes: Any) -> dict[str, Any]:
    """Metrics of a game whose critics are as `SHAPE`, changed."""
    found: dict[str, Any] = {"adversary__penalty": 0.1, "adversary__gradient_ratio": 0.1}
    for side in ("chosen", "rejected"):
        found |= {f"adversary__{side}__{name}": value for name, value in {**SHAPE, **changes}.items()}
    return found


def texts(rule: rules.Rule, run: Any) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in rule(run)]


def test_a_good_run_has_no_warning_and_says_the_sentence_of_dpo(make_run: MakeRun) -> None:
    """Chosen -4 nats over 10 tokens, rejected -9 over 10."""
    run = make_run()
    found = findings(run)
    assert not [finding for finding in found if finding.level == "warning"]
    assert any(
        finding.text.startswith(
            "Margin up, chosen log-probability down 0.40 nats a token: usual for DPO; the rejected ones moved by -0.90."
        )
        for finding in found
    )
    assert shift_per_token(run, "chosen") == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("last", "level", "sentence"),
    [
        (1.0, "good", "chosen log-probability up 0.10 nats a token"),
        (-0.1, "good", "chosen log-probability kept (-0.010 nats a token)"),
        (-4.0, "note", "usual for DPO"),
        (-8.0, "warning", "down 0.80 nats a token, far beyond what is usual"),
    ],
)
def test_likelihood(make_run: MakeRun, good: dict[str, Any], last: float, level: str, sentence: str) -> None:
    run = make_run(lines(**{**good, "shifts__chosen": (0.0, 0.0, 0.0, last)}))
    [(found, text)] = texts(rules.likelihood, run)
    assert found == level
    assert sentence in text


def test_likelihood_is_silent_without_a_reference(make_run: MakeRun, good: dict[str, Any]) -> None:
    assert not texts(rules.likelihood, make_run(lines(**{k: v for k, v in good.items() if not k.startswith("shifts")})))


def test_not_finite_names_the_first_metric_and_step(make_run: MakeRun) -> None:
    run = make_run(lines(3, loss=(0.7, 0.7, 0.7), grad_norm=(1.0, math.nan, math.inf)))
    assert texts(rules.not_finite, run) == [
        ("warning", "grad_norm is not a number at step 20: nothing after it can be trusted.")
    ]
    assert not texts(rules.not_finite, make_run(name="fine"))


def test_unfinished(make_run: MakeRun) -> None:
    [(level, text)] = texts(rules.unfinished, make_run(card={"max_steps": 100}))
    assert level == "warning"
    assert "step 40 of 100" in text
    assert "no metrics" in texts(rules.unfinished, make_run([], name="empty"))[0][1].lower()
    assert not texts(rules.unfinished, make_run(name="whole"))


@pytest.mark.parametrize(
    ("margin", "accuracy", "level"), [(0.3, 0.8, "good"), (-0.1, 0.8, "warning"), (0.3, 0.4, "warning")]
)
def test_margin(make_run: MakeRun, margin: float, accuracy: float, level: str) -> None:
    run = make_run(lines(1, rewards__margins=margin, rewards__accuracies=accuracy))
    [(found, text)] = texts(rules.margin, run)
    assert found == level
    assert f"{margin:.3g}" in text and f"{accuracy:.0%}" in text


def test_loss_that_rises(make_run: MakeRun) -> None:
    """0.69 + a tenth of it is 0.759: 0.75 is none, 0.77 is one."""
    assert not texts(rules.loss, make_run(lines(2, objective_loss=(0.69, 0.75)), name="a"))
    [(level, text)] = texts(rules.loss, make_run(lines(2, objective_loss=(0.69, 0.77)), name="b"))
    assert (level, "from 0.69 to 0.77" in text) == ("warning", True)


def test_gradient_spike_and_constant_clip(make_run: MakeRun) -> None:
    """Norms 0.5, 0.5, 6, 0.5: the median 0.5, the largest 12 times that, one of four above the clip of 1."""
    [(level, text)] = texts(rules.gradients, make_run(lines(grad_norm=(0.5, 0.5, 6.0, 0.5)), name="spike"))
    assert level == "note"
    assert "reached 6 at step 30, against 0.5 in the median" in text
    [(_, text)] = texts(rules.gradients, make_run(lines(grad_norm=(2.0, 3.0, 2.0, 3.0)), name="clip"))
    assert "above the clip of 1 nearly always (median 2.5)" in text
    assert not texts(rules.gradients, make_run(name="calm"))


def test_held_out(make_run: MakeRun, good: dict[str, Any]) -> None:
    def evaluations(*values: float) -> list[dict[str, float]]:
        return [{"step": 10 * (i + 1), "eval_rewards/accuracies": value} for i, value in enumerate(values)]

    assert "No held-out pairs" in texts(rules.held_out, make_run(name="none"))[0][1]
    forgotten = make_run([*lines(**good), *evaluations(0.6, 0.71, 0.66)], name="forgotten")
    [(level, text)] = texts(rules.held_out, forgotten)
    assert level == "note"
    assert "best at step 20 (71.0%) and is 66.0% at the end" in text
    kept = make_run([*lines(**good), *evaluations(0.6, 0.70)], name="kept")
    assert texts(rules.held_out, kept) == [
        ("good", "70.0% of the held-out pairs are ranked as labelled, against 80.0% on training pairs.")
    ]


def test_lengths(make_run: MakeRun) -> None:
    data = {**CARD["data"], "mean_lengths": {"prompt": 5.0, "chosen": 12.0, "rejected": 10.0}}
    [(level, text)] = texts(rules.lengths, make_run(card={"data": data}, name="long"))
    assert (level, "20% longer than rejected ones in the data (12 and 10 tokens)" in text) == ("note", True)
    assert not texts(rules.lengths, make_run(name="even"))
    assert not texts(rules.lengths, make_run(name="old"))


@pytest.mark.parametrize(
    ("changes", "sign"),
    [
        ({"gap": 6.0, "accuracy": 0.99}, "saturated"),
        ({"gap": -4.0, "accuracy": 0.1}, "overtaken"),
        ({"gap": 0.0, "score_anchor": 0.0, "score_cross": 0.0}, "collapsed"),
    ],
)
def test_critic_warnings_are_those_of_training_with_their_step(make_run: MakeRun, changes: Any, sign: str) -> None:
    """Three lines in a row make a trend, so it is at step 30."""
    found = texts(rules.critic_warnings, make_run(lines(**game(**changes))))
    assert [text.partition(" critic is ")[0] for _, text in found] == ["Step 30: adversary/chosen", "Step 30: adversary/rejected"]
    assert all(f"critic is {sign}" in text for _, text in found)


def test_healthy_critics_and_critics_at_chance(make_run: MakeRun) -> None:
    healthy = make_run(lines(**game()), name="healthy")
    assert not texts(rules.critic_warnings, healthy)
    assert texts(rules.critics, healthy) == [
        ("good", "adversary: the critics know the reference in 80% and 80% of the pairs, by 0.5 logits at the end.")
    ]
    [(level, text)] = texts(rules.critics, make_run(lines(**game(accuracy=0.52, gap=0.01)), name="chance"))
    assert level == "note"
    assert "no better than by chance (52% and 52% of the pairs, gap 0.01 logits)" in text
    [(level, text)] = texts(rules.critics, make_run(lines(**game(accuracy=0.97, gap=4.0)), name="certain"))
    assert (level, "nearly always (97% and 97% of the pairs), by 4 logits" in text) == ("note", True)
    assert not texts(rules.critics, make_run(name="plain"))


@pytest.mark.parametrize(
    ("ratio", "level", "sentence"),
    [(2.4, "warning", "2.4 times the objective's"), (2e-4, "note", "2.0e-04 of the objective's"), (0.1, "good", "ends at 0.1")],
)
def test_forces(make_run: MakeRun, ratio: float, level: str, sentence: str) -> None:
    run = make_run(lines(adversary__penalty=0.1, adversary__gradient_ratio=ratio))
    [(found, text)] = texts(rules.forces, run)
    assert found == level
    assert sentence in text


def test_distances(make_run: MakeRun) -> None:
    metrics = {"adversary__penalty": 0.1, "adversary__chosen__distance": 0.02, "adversary__rejected__distance": 0.03}
    run = make_run(lines(**metrics), settings={"divergence.use": "mse"})
    assert texts(rules.distances, run) == [
        ("good", "adversary: by mse, the latents end 0.02 (chosen) and 0.03 (rejected) away from the reference's.")
    ]


def test_warnings_come_first(make_run: MakeRun, good: dict[str, Any]) -> None:
    run = make_run(lines(**good, **{**game(gap=6.0, accuracy=0.99), "adversary__gradient_ratio": 3.0}))
    levels = [finding.level for finding in findings(run)]
    assert levels == sorted(levels, key=("warning", "note", "good").index)
    assert levels.count("warning") == 3
