"""The reference's log-probabilities, kept: the same training without the reference, found again, never believed blindly."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

import ganpo_core
from ganpo_core import reference_cache
from ganpo_core.assemble import assemble
from ganpo_core.config import load_run
from ganpo_core.errors import CheckpointError, ConfigError, TrainingError
from ganpo_core.folders import write_folder
from ganpo_core.metrics import MetricSums
from ganpo_core.reference_cache import use_reference_cache
from ganpo_core.step import train_step

MakeRun = Callable[..., dict[str, Any]]


@pytest.fixture
def cached(tiny_run: MakeRun, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A run in float64 that keeps the reference's values, unless told otherwise."""

    def make(output: str = "out", cache: str | None = "cache", **sections: Any) -> dict[str, Any]:
        run = tiny_run(output_dir=str(tmp_path / output), **sections)
        run["model"] = {**run["model"], "dtype": "float64"}
        kept = {} if cache is None else {"reference_cache": str(tmp_path / cache)}
        run["training"] = {**run["training"], **kept}
        return run

    return make


def policy(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "policy" / "model.safetensors")


def filled(run: dict[str, Any]) -> tuple[Any, list[str]]:
    """The run as it stands before its first step, and what was said."""
    said: list[str] = []
    live = assemble(load_run(run), Accelerator(cpu=True))
    use_reference_cache(live, said.append)
    return live, said


@pytest.mark.parametrize("packing", ["padded", "shared"])
def test_training_is_the_same_with_values_that_were_kept(packing: str, cached: MakeRun, tmp_path: Path) -> None:
    base = {"learning_rate": 1e-2, "max_steps": 3, "per_device_train_batch_size": 4, "save_steps": None}
    training = {**base, "packing": packing, "max_grad_norm": None}
    ganpo_core.train(cached("plain", None, training=training))
    ganpo_core.train(cached("first", training=training))
    ganpo_core.train(cached("again", training=training))
    plain, first, again = (policy(tmp_path / name) for name in ("plain", "first", "again"))
    for name, weight in plain.items():
        torch.testing.assert_close(first[name], weight, rtol=0, atol=1e-6)  # values are those of other batches
        assert torch.equal(first[name], again[name])


def test_the_reference_is_not_run_and_not_kept_once_it_is_known(cached: MakeRun) -> None:
    live, said = filled(cached())
    assert said[0].startswith("reference cache: 0 of ")
    assert live.models.reference is None
    batch = live.batch(live.pairs, [0, 3])
    assert batch.reference is not None and batch.reference.shape == batch.layout.mask.shape
    _, said = filled(cached())
    known = len({tuple(pair.prompt) + tuple(pair.chosen) + tuple(pair.rejected) for pair in live.pairs})
    assert said[0].startswith(f"reference cache: {known} of {known} rows")


def other_weights(model: Path, folder: Path, change: float) -> Path:
    """A model whose first weight is another number."""
    weights = load_file(model / "model.safetensors")
    weights[min(weights)].view(-1)[0] += change
    folder.mkdir(exist_ok=True)
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_other_weights_have_another_place(cached: MakeRun, tiny_model: Path, tmp_path: Path) -> None:
    filled(cached())
    other = other_weights(tiny_model, tmp_path / "other", 1e-3)
    run = cached()
    run["model"]["path"] = str(other)
    _, said = filled(run)
    assert said[0].startswith("reference cache: 0 of ")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_damaged_part_is_named_and_computed_again(cached: MakeRun, tmp_path: Path) -> None:
    filled(cached())
    (values,) = (tmp_path / "cache").glob("*/part-*/logps.safetensors")
    content = bytearray(values.read_bytes())
    content[-1] ^= 1
    values.write_bytes(content)
    live, said = filled(cached())
    assert "logps.safetensors is damaged; its rows are computed again" in said[0]
    assert live.batch(live.pairs, [0]).reference is not None


def test_runs_that_fill_a_cache_at_the_same_time_do_not_disturb_each_other(
    cached: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run reads, computes and writes the same part while this one is in the middle of writing it."""
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(cached("other")))
    command = [sys.executable, "-m", "ganpo_core", "train", str(tmp_path / "other.yaml")]

    def save(part: dict[str, torch.Tensor], path: Path) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        save_file(part, path)

    monkeypatch.setattr(reference_cache, "save_file", save)
    live, said = filled(cached())
    assert said[0].startswith("reference cache: 0 of ")
    assert live.batch(live.pairs, [0]).reference is not None
    (place,) = (tmp_path / "cache").iterdir()
    assert [path.suffix for path in place.iterdir()] == [""]  # one part, and nothing left aside
    assert filled(cached())[1][0].startswith("reference cache: 48 of 48 rows")


def test_rows_that_are_not_found_again_are_an_error_that_says_so(
    cached: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_cache, "_write", lambda part, folder: None)  # as on another machine's disk
    with pytest.raises(CheckpointError, match=r"training\.reference_cache: 48 of 48 rows are not found again .*all processes"):
        filled(cached())


@pytest.mark.parametrize("gap", [0.01, float("nan")])
def test_values_of_another_computation_are_refused(gap: float, cached: MakeRun, tmp_path: Path) -> None:
    """Signed, and wrong: as a library that computes otherwise would leave them."""
    filled(cached())
    signed_with(lambda values: values - gap, tmp_path / "cache")
    with pytest.raises(TrainingError, match=r"not those of this reference.*Delete the folder"):
        filled(cached())


def signed_with(change: Callable[[torch.Tensor], torch.Tensor], cache: Path) -> None:
    """Replace the one part of a cache by other values, signed as its own would be."""
    (values,) = cache.glob("*/part-*/logps.safetensors")
    changed = {key: change(value) for key, value in load_file(values).items()}
    write_folder(values.parent, lambda folder: save_file(changed, folder / values.name), 0)


def test_values_that_a_cache_may_hold_start_a_run_and_another_policy_does_not(cached: MakeRun, tmp_path: Path) -> None:
    """Within 1e-3 nats a token in float32, so several times that on a response of up to 9 tokens."""
    run = cached()
    run["model"]["dtype"] = "float32"
    filled(run)
    signed_with(lambda values: values - 9e-4, tmp_path / "cache")
    live, _ = filled(run)
    train_step(live, live.window(0), 0, MetricSums(live.models.device))
    live, _ = filled(run)
    with torch.no_grad():
        live.models.policy.lm_head.weight.mul_(1.5)
    with pytest.raises(TrainingError, match=r"differ by .* nats .* model\.reference; if not, delete the folder"):
        train_step(live, live.window(0), 0, MetricSums(live.models.device))


def test_another_reference_is_refused_at_resume_though_only_its_values_are_kept(
    cached: MakeRun, tiny_model: Path, tmp_path: Path
) -> None:
    """The folder that model.reference names holds other weights: without a cache, the same words."""
    reference = other_weights(tiny_model, tmp_path / "reference", 0.0)
    training = {"learning_rate": 1e-3, "max_steps": 2, "per_device_train_batch_size": 4, "save_steps": 1}
    for name, cache in (("plain", None), ("kept", "cache")):
        run = cached(name, cache, training=training)
        run["model"]["reference"] = str(reference)
        ganpo_core.train(run)
        shutil.rmtree(tmp_path / name / "policy")
        shutil.rmtree(tmp_path / name / "checkpoints" / "step-00000002")
    other_weights(tiny_model, reference, 1e-3)
    for name, cache in (("plain", None), ("kept", "cache")):
        run = cached(name, cache, training=training)
        run["model"]["reference"] = str(reference)
        with pytest.raises(CheckpointError, match=r"Changed: reference: was '[0-9a-f]{64}', is '[0-9a-f]{64}'\. "):
            ganpo_core.train(run, resume=True)


def test_held_out_pairs_are_known_too(cached: MakeRun, tiny_pairs: Path) -> None:
    data = {"path": str(tiny_pairs), "eval_path": str(tiny_pairs)}
    live, _ = filled(cached(data=data))
    assert live.evaluation is not None and live.batch(live.evaluation, [1]).reference is not None


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"latents": {"use": "hidden_state"}, "divergence": {"use": "mse"}}, "an adversary reads"),
        ({"objective": {"use": "simpo"}}, "nothing reads a reference"),
        ({"objective": {"use": "tdpo1"}}, "whole distributions"),
        ({"training": {"max_steps": 1, "sync_reference": {"every": 1, "mixup": 0.5}}}, "`sync_reference` moves"),
    ],
    ids=str,
)
def test_what_needs_more_of_the_reference_is_refused(sections: dict[str, Any], reason: str, cached: MakeRun) -> None:
    with pytest.raises(ConfigError, match=rf"training\.reference_cache: .*{reason}"):
        assemble(load_run(cached(**sections)), Accelerator(cpu=True))


def test_a_model_that_sees_is_refused_since_images_are_no_part_of_the_key(cached: MakeRun, tmp_path: Path) -> None:
    live = assemble(load_run(cached()), Accelerator(cpu=True))
    live.models.processor = object()
    with pytest.raises(ConfigError, match=r"training\.reference_cache: .* reads images too"):
        use_reference_cache(live, lambda line: None)
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_is_no_folder_is_refused(cached: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match=r"training\.reference_cache: .* is a file"):
        load_run(cached())
