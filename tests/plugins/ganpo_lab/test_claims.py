"""Rows as data, outcomes as letters, and the queue in miniature: made once, resumed, made again and compared."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from ganpo_lab import claims, commands, sampling, signals
from ganpo_lab.agreement import compare
from ganpo_lab.claims import Settings, check_again, read_result, run_queue
from ganpo_lab.configurations import CLAIMS, REFERENCE, SEARCH, Job, jobs, read_plans
from ganpo_lab.evaluate import load_policy
from ganpo_lab.held_out import HeldOutSequences
from ganpo_lab.measure import COLDER, POOL, RIVALS, TEMPERATURES, World
from ganpo_lab.outcomes import LETTERS, REWARDS, decode, encode
from ganpo_lab.preferences import PreferenceRecipe, held_out
from ganpo_lab.reference import ReferenceRecipe
from ganpo_lab.world import Request, draw_requests, judge
from ganpo_lab.writer import write
from typer.testing import CliRunner

from ganpo_core import ConfigError, GanpoError
from ganpo_core.config import load_run

TINY = Settings(
    ReferenceRecipe(steps=20, batch_size=16, hidden_size=32, num_layers=1, num_heads=2, ffn_size=64),
    PreferenceRecipe(num_prompts=60, num_held_out=20),
    num_prompts=24,
    reward_model_steps=2,
)
ROWS = """
protocols:
  confirm: {seeds: [0, 1], split: test, match_on_own: true}
every_run:
  data: {max_length: 128}
  objective: {use: dpo, beta: 0.1}
  training: {learning_rate: 1.0e-3, max_steps: 2, per_device_train_batch_size: 4, logging_steps: 1, save_steps: null}
rows:
  reference: {label: the reference}
  plain: {label: plain}
  game:
    label: a game
    signals: true
    run:
      latents: {use: hidden_state, layer: -1}
      discriminator: {use: token_mlp, hidden_dim: 8}
      divergence: {use: ragan}
      adversary: {preset: ganpo, weight: 1.0}
tables:
  small: {title: small, claims: [C1], protocol: confirm, rows: [plain, game], compare: [[game, plain]]}
"""


@pytest.fixture(scope="module", autouse=True)
def short_answers() -> Iterator[None]:
    """A model that has learned nothing does not stop by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "MAX_NEW_TOKENS", 8)
        yield


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.yaml"
    path.write_text(ROWS)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every row of ROWS in one world."""
    folder = tmp_path_factory.mktemp("claims")
    (folder / "rows.yaml").write_text(ROWS)
    assert run_queue(jobs(read_plans(folder / "rows.yaml"), [0]), folder / "results", folder / "cache", TINY) == 3
    return folder


def test_every_answer_is_a_letter_and_comes_back() -> None:
    """16 rewards (0.5 to 3) times three grades are 48 letters; lengths are up to 48."""
    draw = random.Random(0)
    requests = draw_requests("train", 2000, draw)
    answers = [write(request, draw) for request in requests]
    verdicts = [judge(request, answer) for request, answer in zip(requests, answers, strict=True)]
    earned, length = encode(verdicts, [len(answer) for answer in answers])
    assert (len(REWARDS), min(REWARDS), max(REWARDS)) == (16, 0.5, 3.0)
    assert len(REWARDS) * 3 <= len(LETTERS) and len(set(LETTERS)) == 62
    back = decode(earned, length)
    assert np.allclose(back.reward, [verdict.reward for verdict in verdicts])
    assert back.valid.tolist() == [float(verdict.valid) for verdict in verdicts]
    assert back.strict.tolist() == [float(verdict.strict) for verdict in verdicts]
    assert back.loose.tolist() == [float(verdict.loose) for verdict in verdicts]
    assert back.length.tolist() == [len(answer) for answer in answers]


@pytest.mark.parametrize("path", [CLAIMS, SEARCH], ids=lambda path: path.stem)
def test_every_row_is_a_run_file(path: Path) -> None:
    plans = read_plans(path)
    assert all(plan.rows[0].name == REFERENCE and plan.rows[0].run is None for plan in plans)
    for row in {row.name: row for plan in plans for row in plan.rows}.values():
        if row.run is not None:
            run = {key: dict(section) for key, section in row.run.items()}
            run.setdefault("model", {})["path"] = "someone/model"
            run["data"]["path"] = "someone/pairs"
            config = load_run({**run, "output_dir": "runs/nowhere"})
            assert bool(config.adversaries) == ("divergence" in row.run)
            assert config.model.freeze_output == ("freeze_output" in row.run.get("model", {}))


def test_every_adversarial_row_of_a_confirmation_has_its_controls() -> None:
    """Beside each trained critic of feature matching: the same row frozen, and latent MSE at several weights."""
    for plan in read_plans(CLAIMS)[:2] + read_plans(SEARCH)[-1:]:
        assert plan.protocol.split == "test"
        names = {row.name for row in plan.rows}
        assert any(name.endswith("_frozen") for name in names)
        assert any("mse" in name for name in names)
    claimed = {claim for plan in read_plans(CLAIMS) for claim in plan.claims}
    assert claimed == {f"C{number}" for number in range(1, 11)}


def test_a_screen_and_a_confirmation_share_neither_seeds_nor_prompts() -> None:
    by_split: dict[str, set[int]] = {"dev": set(), "test": set()}
    for plan in (*read_plans(CLAIMS), *read_plans(SEARCH)):
        by_split[plan.protocol.split] |= set(plan.protocol.seeds)
    assert not by_split["dev"] & by_split["test"]
    assert len(read_plans(SEARCH)[-1].protocol.seeds) >= 8


def test_jobs_come_table_by_table_and_seed_by_seed_and_nothing_twice(rows: Path) -> None:
    plans = read_plans(rows)
    order = [(job.configuration.name, job.seed) for job in jobs([*plans, *plans])]
    assert order == [(name, seed) for seed in (0, 1) for name in ("reference", "plain", "game")]
    assert [job.file for job in jobs(plans, [1], ["plain"])] == [Path("plain/test-1.json")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("protocol: confirm", "protocol: confrim"), "tables.small.protocol: 'confrim' is not among `protocols`"),
        (("rows: [plain, game]", "rows: [plane]"), "no row is called 'plane'; rows: reference, plain, game"),
        (("label: plain", "label: plain, weight: 2"), "rows.plain: unknown key weight; it has label, run, signals"),
        (("layer: -1", "layer: -2"), "rows.game.signals: needs a discriminator, and latents"),
        (("every_run:", "each_run:"), "the file: every_run is missing; it has every_run, protocols, rows"),
        (("split: test", "spilt: test"), "protocols.confirm: split is missing"),
        ((", compare: [[game, plain]]", ""), "tables.small: compare is missing"),
        (("split: test", "split: test, world: {refrence: {}}"), "confirm.world: unknown key refrence"),
        (("split: test", "split: test, world: {reference: {layers: 2}}"), "confirm.world.reference: unknown key layers"),
        (("split: test", "split: test, world: {preferences: {seed: 2}}"), "confirm.world.preferences: unknown key seed"),
    ],
)
def test_a_mistake_in_the_rows_names_its_place(rows: Path, change: tuple[str, str], message: str) -> None:
    rows.write_text(ROWS.replace(*change))
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        read_plans(rows)


def test_unknown_rows_seeds_and_two_meanings_are_refused(rows: Path, tmp_path: Path) -> None:
    plans = read_plans(rows)
    with pytest.raises(ConfigError, match="no row is called 'plane'"):
        jobs(plans, only=["plane"])
    with pytest.raises(ConfigError, match="nothing to run; these tables have the seeds 0, 1"):
        jobs(plans, [7])
    (tmp_path / "other.yaml").write_text(ROWS.replace("beta: 0.1", "beta: 0.2"))
    with pytest.raises(ConfigError, match="row 'plain' stands in two files and means two things"):
        jobs([*plans, *read_plans(tmp_path / "other.yaml")])
    (tmp_path / "larger.yaml").write_text(ROWS.replace("split: test", "split: test, world: {reference: {num_layers: 2}}"))
    with pytest.raises(ConfigError, match="seed 0 stands in two protocols and means two worlds"):
        jobs([*plans, *read_plans(tmp_path / "larger.yaml")])


def test_a_protocol_may_have_worlds_of_its_own(rows: Path) -> None:
    world = "world: {reference: {hidden_size: 64, num_layers: 2}, preferences: {num_prompts: 90}}"
    rows.write_text(ROWS.replace("split: test", f"split: test, {world}"))
    (job, *_) = jobs(read_plans(rows), [1])
    here = TINY.of(job)
    assert here.reference == replace(TINY.reference, seed=1, hidden_size=64, num_layers=2)
    assert here.preferences == replace(TINY.preferences, seed=1, num_prompts=90)
    assert TINY.identity(job)["reference"]["hidden_size"] == 64


def test_a_result_holds_every_sampling(made: Path) -> None:
    """A policy: 4 temperatures, one of them with two answers, as it is and matched. The reference: its rivals and pool."""
    policy = json.loads((made / "results/game/test-0.json").read_text())
    reference = json.loads((made / "results/reference/test-0.json").read_text())
    assert len(policy["samples"]) == 2 * (len(TEMPERATURES) + 1) + 2
    assert [sampling["replicate"] for sampling in policy["samples"] if sampling.get("on_own")] == [0, 1]
    assert len(reference["samples"]) == len(TEMPERATURES) * (1 + RIVALS + POOL) + 1 + 2 * len(COLDER)
    assert all(len(sampling["earned"]) == len(sampling["lengths"]) == 24 for sampling in policy["samples"])
    assert reference["figures"]["divergence"] == reference["figures"]["latent"] == reference["figures"]["shift"] == 0
    assert policy["figures"]["latent"] > 0
    assert [line["step"] for line in policy["training"]] == [1, 2]
    assert {(row["at"], row["signal"]) for row in policy["correlations"]} == {
        (at, signal) for at in (1.5, 2.0) for signal in ("critic", "reward model")
    }
    assert not (made / "cache/seed-0/runs/game").exists()


def test_entropy_is_matched_on_own_answers(made: Path) -> None:
    """A policy whose logits are the reference's times 1.5 answers at T = 1.5 as the reference does at 1."""
    folder = made / "cache/seed-0"
    reference, policy = load_policy(folder / "reference"), load_policy(folder / "reference")
    policy.get_output_embeddings().weight.data.mul_(1.5)
    world = World(0, "test", 512, HeldOutSequences(reference, held_out(folder / "preferences")))
    found = list(world.matched_on_own(policy, reference))
    assert [(each.kind, each.matched, each.on_own, each.replicate) for each in found] == [("own", True, True, n) for n in (0, 1)]
    assert found[0].temperature == pytest.approx(1.5, rel=0.02)


def test_what_is_made_is_not_made_again_unless_its_row_changed(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def note(job: Job, cache: Path, settings: Settings) -> dict[str, object]:
        ran.append(job.configuration.name)
        return settings.identity(job)

    monkeypatch.setattr(claims, "run_job", note)
    queue = jobs(read_plans(made / "rows.yaml"), [0])
    assert run_queue(queue, made / "results", made / "cache", TINY) == 0
    changed = [replace(job, configuration=replace(job.configuration, run={"objective": {"use": "dpo"}})) for job in queue[1:2]]
    saved = (made / "results/plain/test-0.json").read_text()
    assert run_queue(changed, made / "results", made / "cache", TINY) == 1
    (made / "results/plain/test-0.json").write_text(saved)
    assert ran == ["plain"]


def test_a_row_made_again_from_nothing_agrees(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same seeds, same numbers: the reference and its pairs are made again too."""
    queue = jobs(read_plans(made / "rows.yaml"), [0], ["plain"])
    assert check_again(queue, made / "results", tmp_path, TINY)
    assert "agrees   sampled at 0.5 (1) reward: committed" in capsys.readouterr().out
    with pytest.raises(GanpoError, match="no result to compare with"):
        check_again(jobs(read_plans(made / "rows.yaml"), [1], ["plain"]), made / "results", tmp_path, TINY)


def test_another_row_does_not_pass_for_it(made: Path) -> None:
    """As many answers, all perfect in one result and all worthless in the other: only their lengths agree."""
    committed = read_result(made / "results/plain/test-0.json")
    assert committed is not None
    perfect = encode([judge(Request((1,), 3), ["{", "k1", ":", "v4", "}", "<eos>"])], [6])[0]
    good = {**committed, "samples": [{**s, "earned": perfect * 24} for s in committed["samples"]]}
    bad = {**committed, "samples": [{**s, "earned": "." * 24} for s in committed["samples"]]}
    assert all(line.holds for line in compare(good, good))
    assert {line.what.split()[-1] for line in compare(good, bad) if not line.holds} == {"reward", "valid", "strict"}


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text('{"row": ')
    with pytest.raises(GanpoError, match=r"torn\.json: not a result of the lab"):
        read_result(tmp_path / "torn.json")


def test_correlations_by_hand() -> None:
    """Scores 1, 2, 3, 4 against their squares: ranks agree exactly, and Pearson's r is 25 / sqrt(5 * 129) = 0.98437."""
    found = signals.correlations(np.tile([1.0, 2, 3, 4], 25), np.tile([1.0, 4, 9, 16], 25))
    assert found["pearson"][0] == pytest.approx(25 / (5 * 129) ** 0.5, abs=1e-4)
    assert found["spearman"][0] == pytest.approx(1.0)
    assert signals.correlations(np.ones(4), np.arange(4.0))["pearson"] is None


def test_a_critic_is_read_as_it_was_trained(made: Path, tmp_path: Path) -> None:
    with pytest.raises(GanpoError, match="holds no critic"):
        signals.load_critic(tmp_path, 32)


def test_the_command_says_what_is_missing_and_writes_the_page(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    runner = CliRunner()
    told = runner.invoke(commands.app, ["claims", "--file", "rows.yaml", "--results", "results", "--dry-run"])
    assert told.output.splitlines()[:1] == ["done     results/reference/test-0.json"]
    assert "missing  results/plain/test-1.json" in told.output.splitlines()
    Path("page.md").write_text("<!-- lab: small margins -->\n<!-- end -->\n")
    arguments = ["claims", "--file", "rows.yaml", "--results", "results", "--page", "page.md", "--page-only"]
    assert runner.invoke(commands.app, arguments).exit_code == 0
    assert "`plain` plain | 1 |" in Path("page.md").read_text()
    wrong = runner.invoke(commands.app, ["claims", "--file", "rows.yaml", "--seeds", "one", "--dry-run"])
    assert isinstance(wrong.exception, ConfigError)


def test_the_two_files_share_rows_only_by_name() -> None:
    document = yaml.safe_load(SEARCH.read_text())
    assert document["rows_of"] == CLAIMS.name
    assert not set(document["rows"]) & set(yaml.safe_load(CLAIMS.read_text())["rows"])
    assert jobs([*read_plans(CLAIMS), *read_plans(SEARCH)])
