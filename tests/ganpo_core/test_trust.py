"""What a model from elsewhere may bring: numbers and text."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import ganpo_core
from ganpo_core.config import ModelConfig, load_run
from ganpo_core.errors import CheckpointError, ConfigError
from ganpo_core.models import load_config, load_models, load_tokenizer
from ganpo_core.trust import check_weights

MakeRun = Callable[..., dict[str, Any]]


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    return folder


def changed(folder: Path, name: str, **values: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def load(folder: Path, trust: bool = False) -> None:
    import torch

    config = ModelConfig(path=str(folder))
    load_models(config, load_tokenizer(config, trust), torch.device("cpu"), needs_reference=False, trust_remote_code=trust)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "adapter_model.bin"])
def test_a_pickle_is_refused_and_never_opened(name: str, model: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (model / name).write_bytes(pickle.dumps(Payload(sprung)))
    if name == "adapter_model.bin":
        (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    else:
        (model / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"pickled ones .* are refused, since reading them runs code"):
        load(model)
    assert not sprung.exists()


def test_code_of_a_model_is_not_run_where_transformers_has_its_own(model: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (model / "modeling_x.py").write_text(f"open({str(sprung)!r}, 'w').close()\n")
    changed(model, "config.json", auto_map={"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.Y"})
    load(model)
    assert not sprung.exists()


def test_code_of_a_model_that_transformers_does_not_know_is_refused_with_what_to_do(model: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    code = f"open({str(sprung)!r}, 'w').close()\n"
    code += "from transformers import PretrainedConfig\nclass X(PretrainedConfig):\n    pass\n"
    (model / "modeling_x.py").write_text(code)
    changed(model, "config.json", auto_map={"AutoConfig": "modeling_x.X"}, model_type="of_its_own")
    with pytest.raises(ConfigError, match=r"Python code of its own .* pass --trust-remote-code on the command line"):
        load_config(ModelConfig(path=str(model)))
    assert not sprung.exists()
    assert type(load_config(ModelConfig(path=str(model)), trust_remote_code=True)).__name__ == "X"
    assert sprung.exists()


def test_a_run_file_cannot_let_a_model_run_code(tiny_run: MakeRun) -> None:
    run = tiny_run()
    with pytest.raises(ConfigError, match=r"model\.trust_remote_code: unknown option: a run file cannot allow"):
        load_run({**run, "model": {**run["model"], "trust_remote_code": True}})
    with pytest.raises(ConfigError, match=r"pass --trust-remote-code on the command line"):
        load_run(run, ["model.trust_remote_code=true"])
    assert load_run(run, (), trust_remote_code=True).trust_remote_code
    assert "trust_remote_code" not in str(load_run(run, (), trust_remote_code=True).resolved)


def test_an_attention_kernel_from_elsewhere_is_refused(model: Path) -> None:
    changed(model, "config.json", _attn_implementation="somebody/kernel", attn_implementation="somebody/kernel")
    with pytest.raises(ConfigError, match=r"attention kernel 'somebody/kernel', which is code from elsewhere"):
        load(model)


@pytest.mark.parametrize(
    ("shard", "reason"),
    [
        ("../outside.safetensors", "names '../outside.safetensors', which lies outside of the model's folder"),
        ("/etc/outside.safetensors", "lies outside of the model's folder"),
        ("a/../../outside.safetensors", "lies outside of the model's folder"),
        ("weights.bin", "pickled ones"),
        ("missing.safetensors", "names 'missing.safetensors', which is missing"),
    ],
)
def test_an_index_leads_nowhere_else(shard: str, reason: str, model: Path) -> None:
    shutil.copy(model / "model.safetensors", model.parent / "outside.safetensors")
    (model / "model.safetensors").rename(model / "part.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "part.safetensors", "b": shard}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError) as caught:
        check_weights("model.path", str(model))
    assert reason in str(caught.value)


def test_an_index_that_is_cut_off_is_named(model: Path) -> None:
    (model / "model.safetensors").rename(model / "part.safetensors")
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "pa')
    with pytest.raises(ConfigError, match=r"model\.safetensors\.index\.json cannot be read as an index"):
        check_weights("model.path", str(model))


def test_weights_that_the_files_lack_are_not_drawn_at_random(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 of the model's weights .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load(model)


def test_weights_that_are_cut_off_are_refused_in_one_line(model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match=r"model\.path: .* cannot be loaded: ") as caught:
        load(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "run.yaml"])
def test_a_link_inside_of_the_output_folder_is_refused(name: str, tiny_run: MakeRun, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(outside if name == "checkpoints" else outside / name)
    with pytest.raises(CheckpointError, match=r"is a (symbolic )?link"):
        ganpo_core.train(tiny_run(), resume=name != "metrics.jsonl")
    assert not list(outside.iterdir())


def test_an_output_folder_that_is_a_link_is_what_it_leads_to(tiny_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert load_run(tiny_run(output_dir=str(tmp_path / "link"))).output_dir == tmp_path / "disk"


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a b", 7])
def test_the_name_of_an_adversary_is_a_word_since_it_names_files(name: object, tiny_run: MakeRun) -> None:
    item = {"name": name, "latents": {"use": "hidden_state"}, "divergence": {"use": "mse"}}
    with pytest.raises(ConfigError, match=r"adversaries\.0\.name: expected a word"):
        load_run(tiny_run(adversaries=[item]))
