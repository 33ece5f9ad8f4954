"""The page: whole, well-formed, self-contained, and plain about what is missing."""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
from ganpo_report import facts
from ganpo_report.drawing import Curve, draw, legend_of, thinned
from ganpo_report.page import make_page
from run_samples import GAME, GOOD, MakeRun, lines, write_run

from ganpo_core.cli.main import main

SECTIONS = ["reading", "what-ran", "training", "critics", "divergence", "temperature", "lengths", "samples"]
VOID = {"meta", "line", "path", "use", "rect", "br", "link", "img", "input"}
SWEEP = {
    "title": "RecordWorld",
    "columns": ["policy", "temperature", "matched", "valid", "win"],
    "rows": [["reference", 0.5, False, 1.0, 0.5], ["reference", 1.0, False, 0.9, 0.5], ["ganpo", 1.0, False, 0.8, 0.6],
             ["ganpo", 0.5, False, 0.9, 0.6], ["ganpo", 1.2, True, 0.7, 0.55]],
    "paper": [["GANPO", 1.0, None, None, 0.5]],
}  # fmt: skip
BUCKETS = {"title": "By length", "rows": [{"bucket": "0-9", "win": 0.4}, {"bucket": "10-19", "win": 0.6}]}


class Checker(HTMLParser):
    """Raises where tags do not nest; collects ids, references, texts and whatever would be fetched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "action", "data"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of two runs with everything that can be shown."""
    make_run = partial(write_run, tmp_path_factory.mktemp("runs"))
    held_out = [{"step": step, "eval_rewards/margins": 0.1, "eval_rewards/accuracies": 0.6} for step in (20, 40)]
    answer = {"instruction": "Sum 1 and 2. <b>&", "generator": "policy", "temperature": 1.0}
    files = {"evaluation/sweep.json": json.dumps(SWEEP), "evaluation/buckets.json": json.dumps(BUCKETS)}
    dpo = make_run(name="dpo", files={"samples.json": json.dumps([{**answer, "output": "3 <script>alert(1)</script>"}])})
    ganpo = make_run(
        [*lines(**GOOD, **GAME), *held_out],
        name="ganpo",
        settings={"divergence": {"use": "ragan"}, "latents": {"use": "hidden_state"}},
        files={**files, "samples.json": json.dumps([{**answer, "output": ""}]), "evaluation/odd.json": "{}"},
    )
    return make_page([dpo, ganpo])


def test_every_section_is_there_and_nothing_is_fetched(full: str) -> None:
    found = Checker(full)
    assert [name for name in found.ids if name in SECTIONS] == SECTIONS
    assert len(set(found.ids)) == len(found.ids)
    inside = {link.removeprefix("#") for link in found.links if link.startswith("#")}
    assert inside <= set(found.ids)
    assert all(link.startswith("#") for link in found.links)
    assert not {"script", "link", "iframe", "img"} & set(found.tags)
    assert not re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"arXiv [\d.]+", "", full))
    assert re.findall(r"url\(#([\w-]+)\)", full)
    assert set(re.findall(r"url\(#([\w-]+)\)", full)) <= set(found.ids)


def test_what_users_wrote_is_shown_and_not_run(full: str) -> None:
    assert "<script>" not in full
    text = Checker(full).text
    assert "3 <script>alert(1)</script>" in text
    assert "Sum 1 and 2. <b>&" in text
    assert "(an empty response)" in text


def test_numbers_sentences_and_the_papers_rows_are_on_the_page(full: str) -> None:
    text = Checker(full).text
    for expected in (
        "chosen log-probability down 0.40 nats a token", "held-out accuracy", "Settings that differ", "divergence.use",
        "ragan", "Scores of the chosen critic", "Divergence estimate", "RecordWorld: valid", "at the reference's entropy",
        "By length: win", "T = 1.20", "Rows in italics are the paper's", "bbbbbbbbbbbb", "dddddddddddd",
        "aaaaaaaaaaaa + changes", "2026-01-02 03:04:05",
        "2026-02-03 04:05:06", "ganpo/evaluation/odd.json has no", "All runs have seed 0",
        "99, of 5 + 10 + 10 tokens", "dpo: ganpo train run.yaml",
    ):  # fmt: skip
        assert expected in text, expected


def test_charts_have_every_run_in_its_own_colour(full: str) -> None:
    margin = full[full.index("Reward margin") :].partition("</figure>")[0]
    assert "var(--series-0)" in margin and "var(--series-1)" in margin
    assert ">dpo<" in margin and ">ganpo<" in margin and margin.count("held-out pairs</li>") == 1
    assert not re.findall(r"#[0-9a-f]{6}", margin.replace("#ffffff", ""))


def test_tables_scroll_inside_their_own_box_and_charts_fit_their_column(full: str) -> None:
    """What keeps the page itself from scrolling sideways at 480 pixels."""
    assert full.count("<table>") == full.count('<div class="scroll')
    assert re.search(r"\.scroll \{[^}]*overflow-x: auto", full)
    assert re.search(r"svg \{[^}]*width: 100%", full)
    assert not re.search(r'<svg[^>]* width="', full)
    assert all("viewBox" in tag for tag in re.findall(r"<svg[^>]*>", full))
    assert 'name="viewport"' in full


def test_what_is_missing_is_said_in_words(make_run: MakeRun) -> None:
    page = make_page([make_run([], name="old")])
    found = Checker(page)
    assert "figure" not in found.tags
    for expected in (
        "metrics.jsonl holds no line yet", "ganpo evaluate temperature with --output RUN/evaluation",
        "ganpo evaluate length-buckets with",
        "ganpo generate writes them", "without a latent regularizer", "no card.json", "No metrics were logged",
    ):  # fmt: skip
        assert expected in found.text, expected


def test_a_single_run_colours_its_groups_and_says_what_it_is(make_run: MakeRun) -> None:
    run = make_run(lines(**GOOD, **GAME), settings={"divergence": {"use": "ragan"}, "latents": {"use": "pooled"}})
    page = make_page([run])
    assert "Objective dpo, with ragan beside it; 40 steps." in page
    assert "reference (anchor)" in page
    assert "No held-out pairs" in page


def test_a_legend_says_each_name_and_each_group_once() -> None:
    def of(*curves: tuple[str, str, int, int]) -> list[tuple[str, int | None, int]]:
        made = [Curve(name, [1], [1.0], group, colour, dash) for name, group, colour, dash in curves]
        return [(mark.label, mark.colour, mark.dash) for mark in legend_of(made)]

    assert of(("a", "x", 0, 0), ("a", "y", 0, 1), ("b", "x", 1, 0), ("b", "y", 1, 1)) == [
        ("a", 0, 0), ("b", 1, 0), ("x", None, 0), ("y", None, 1),
    ]  # fmt: skip
    assert of(("a", "x", 0, 0), ("a", "y", 1, 0)) == [("x", 0, 0), ("y", 1, 0)]
    assert of(("a", "", 0, 0), ("b", "", 1, 0)) == [("a", 0, 0), ("b", 1, 0)]
    assert of(("a", "", 0, 0)) == []


def test_runs_that_answered_different_prompts_are_shown_alone(make_run: MakeRun) -> None:
    def samples(prompt: str) -> dict[str, str]:
        return {"samples.json": json.dumps([{"instruction": prompt, "output": "x"}])}

    text = Checker(make_page([make_run(name="a", files=samples("p")), make_run(name="b", files=samples("q"))])).text
    assert "The runs answered different prompts" in text


def test_long_series_are_thinned_to_means_of_neighbours() -> None:
    """Six values, at most three points: pairs, whose means are 0.5, 2.5 and 4.5."""
    assert thinned(range(6), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], most=3) == ([0.5, 2.5, 4.5], [0.5, 2.5, 4.5])
    assert thinned([1, 2], [3.0, 4.0]) == ([1, 2], [3.0, 4.0])
    drawn = draw("Many", "", [Curve("a", range(10_000), [float(i % 7) for i in range(10_000)])])
    assert len(drawn.svg) < 40_000


def test_values_over_two_decades_may_be_drawn_on_a_logarithmic_axis() -> None:
    def labels(values: list[float], log: bool) -> str:
        return " ".join(re.findall(r">([^<>\s]+)<", draw("A", "", [Curve("a", [1, 2, 3], values)], log=log).svg))

    assert "2.0" in labels([1.0, 2.0, 3.0], log=True)
    assert " 8 10" in labels([1e-3, 1.0, 10.0], log=False)
    assert " 8 10" not in labels([1e-3, 1.0, 10.0], log=True)


def test_numbers_on_an_axis_keep_their_digits() -> None:
    """Coordinates are rounded to keep the page small; what a reader reads is not."""
    svg = draw("Small", "", [Curve("a", [1, 2], [0.6812, 0.6818])]).svg
    assert "0.6812" in re.findall(r">([^<>\s]+)<", svg)


def test_evaluations_of_another_folder_join_in(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "alpaca.json").write_text(json.dumps({"title": "AlpacaEval", "rows": [{"model": "x", "win rate": 31.4159}]}))
    run = make_run().folder
    monkeypatch.setattr(sys, "argv", ["ganpo", "report", str(run), "--evaluation", str(folder)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    text = Checker((run / "report.html").read_text(encoding="utf-8")).text
    assert "Other evaluations" in text and "31.42" in text
    monkeypatch.setattr(sys, "argv", ["ganpo", "report", str(run), "--evaluation", str(folder / "nothing")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "is no folder" in capsys.readouterr().err


def test_the_command_writes_into_the_first_run_unless_told(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(make_run(name=name).folder) for name in ("one", "two")]
    for arguments, expected in (
        (runs, Path(runs[0]) / "report.html"),
        ([*runs, "--output", str(tmp_path / "new" / "page.html")], tmp_path / "new" / "page.html"),
    ):
        monkeypatch.setattr(sys, "argv", ["ganpo", "report", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        assert capsys.readouterr().out.strip() == str(expected)
        Checker(expected.read_text(encoding="utf-8"))


def test_settings_that_tell_come_before_options_of_a_section_that_a_run_lacks(make_run: MakeRun) -> None:
    def adversary(cross: float) -> dict[str, object]:
        return {"divergence": {"use": "ragan"}, "adversary": {"weight": 1.0, "cross_weight": cross, "masked": True}}

    runs = [make_run(name="dpo"), make_run(name="a", settings=adversary(1.0)), make_run(name="b", settings=adversary(0.0))]
    keys = facts.differing_keys(runs)
    assert keys == ["divergence.use", "adversary.weight", "adversary.cross_weight", "adversary.masked"]
    assert facts.telling_keys(runs, keys) == keys[:3]
    assert "All 4 settings that differ" in make_page(runs)


def test_several_adversaries_are_told_apart_by_name(make_run: MakeRun) -> None:
    """Charts, the closing table and the settings of a run with `adversaries:`."""
    metrics = {
        f"adversary__{name}__{key}": value
        for name in ("text", "image")
        for key, value in (("penalty", 0.25), ("gradient_ratio", 0.1), ("chosen__distance", 0.5), ("rejected__distance", 0.5))
    }
    sections = [{"name": name, "divergence": {"use": kind}} for name, kind in (("image", "cosine"), ("text", "mse"))]
    text = Checker(make_page([make_run(lines(**GOOD, **metrics), settings={"adversaries": sections})])).text
    for expected in (
        "with cosine and mse beside it", "Distance of the latents: text", "Penalty: image", "penalty, image",
        "adversaries.0.divergence.use", "adversary/text: at the latents its gradient",
        "adversary/image: by cosine, the latents end 0.5", "adversary/text: by mse, the latents end 0.5",
    ):  # fmt: skip
        assert expected in text, expected


def test_a_huge_answer_is_shown_in_part(make_run: MakeRun) -> None:
    rows = [{"instruction": "p" * 5000, "output": "a" * 3_000_000, "generator": "x"}]
    page = make_page([make_run(files={"samples.json": json.dumps(rows)})])
    assert "a" * 4000 + " […] (2,996,000 more characters)" in page
    assert "p" * 4000 + " […] (1,000 more characters)" in page
    assert len(page) < 1_000_000


def test_a_dollar_in_a_name_is_no_formula(make_run: MakeRun) -> None:
    rows = [{"policy": "a", "temperature": t, "win $x_ rate": t / 2} for t in (0.5, 1.0)]
    buckets = [{"bucket": name, "win": 0.5} for name in ("$0_ to", "$5_ to")]
    files = {"evaluation/sweep.json": json.dumps(rows), "evaluation/buckets.json": json.dumps(buckets)}
    page = make_page([make_run(name="<b>[/x] $y_", files=files)])
    assert page.count("win $x_ rate") >= 2
    assert "$0_ to" in page
    assert "<b>" not in page.replace("<b>a</b>", "")
    assert "&lt;b&gt;[/x] $y_" in page
