"""Every YAML file under examples/ resolves, and every one that trains takes real steps."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from vision_families import FAMILIES, picture, save_family, write_rows

import ganpo_core
from ganpo_core.config import load_run
from ganpo_core.models import load_processor

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*.yaml"))
RUN_FILES = [path for path in FILES if path.parent.name not in ("launch", "ablation")]
GRID_FILES = [path for path in FILES if path.parent.name == "ablation"]
LAUNCH_FILES = [path for path in FILES if path.parent.name == "launch"]
PAPER_FILES = [path for path in RUN_FILES if path.parent.name == "paper"]
VISION_FILES = [path for path in RUN_FILES if path.parent.name == "vision"]
REAL_FILES = [path for path in RUN_FILES if path.parent.name == "real"]
LEAST_RISE = {"dpo": 1.0, "ganpo_dpo": 1.0, "simpo": 0.0, "ganpo_simpo": 0.0}
"""By how much the margin of a real file rises on rows that it sees again and again."""
WORDS = [f"word{index}" for index in range(40)]
SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 2048, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<model>", *WORDS]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    made.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ ' <user> ' if m['role'] == 'user' else ' <model> ' }}{{ m['content'] }}"
        "{{ ' ' + eos_token if m['role'] == 'assistant' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' <model> ' }}{% endif %}"
    )
    return made


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models of the same classes as the paper's, of width 32."""
    folder = tmp_path_factory.mktemp("models")
    configs = {"gemma2_2b": Gemma2Config(**SHAPE, vocab_size=46), "llama3_8b": LlamaConfig(**SHAPE, vocab_size=46)}
    for key, config in configs.items():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / key)
        tokenizer().save_pretrained(folder / key)
    return {key: folder / key for key in configs}


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few rows shaped as each of the paper's two datasets."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)

    def text() -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(2, 9)))

    def turns(prompt: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": text()}]

    binarized, armorm = [], []
    for index in range(16):
        prompt = text()
        sides = {"chosen": turns(prompt), "rejected": turns(prompt)}
        binarized.append({**sides, "score_chosen": 8.0, "score_rejected": 5.5})
        armorm.append(
            {"prompt_id": str(index), "prompt": prompt, **sides, "all_generated_responses": [text()], "all_rm_scores": [0.1]}
        )
    for key, rows in (("gemma2_2b", binarized), ("llama3_8b", armorm)):
        (folder / f"{key}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {key: folder / f"{key}.jsonl" for key in ("gemma2_2b", "llama3_8b")}


def paper_overrides(path: Path, models: dict[str, Path], data: dict[str, Path], output: Path) -> dict[str, object]:
    key = "_".join(path.stem.split("_")[:2])
    return {
        "model.path": str(models[key]), "data.path": str(data[key]), "data.split": None, "output_dir": str(output),
        "training.max_steps": 2, "training.gradient_accumulation_steps": 2, "training.per_device_train_batch_size": 2,
        "training.logging_steps": 1,
    }


def finite_metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    return lines


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", RUN_FILES, ids=name)
def test_every_run_file_resolves(path: Path, tiny_models: dict[str, Path], tiny_data: dict[str, Path]) -> None:
    local = {"model.path": str(tiny_models["llama3_8b"]), "data.path": str(tiny_data["llama3_8b"])}
    overrides = {} if path.parent.name == "paper" else local
    if "eval_path" in path.read_text():
        overrides["data.eval_path"] = local["data.path"]
    config = load_run(path, overrides)
    assert bool(config.adversaries) == ("divergence:" in path.read_text())
    assert EXAMPLES.parent / "runs" in config.output_dir.parents


@pytest.mark.parametrize("path", GRID_FILES, ids=name)
def test_every_run_of_a_grid_takes_two_steps(
    path: Path, tiny_models: dict[str, Path], tiny_data: dict[str, Path], tmp_path: Path
) -> None:
    from ganpo_evaluation.ablation import combinations, read_grid

    grid = read_grid(path)
    assert EXAMPLES.parent / "runs" in (path.parent / grid.output_dir).resolve().parents
    local = {"model.path": str(tiny_models["llama3_8b"]), "data.path": str(tiny_data["llama3_8b"]), "training.max_steps": 2}
    runs = list(combinations(grid))
    assert len({run for run, _ in runs}) == len(runs) == 10
    for index, (_, options) in enumerate(runs[::2]):
        folder = ganpo_core.train(path.parent / grid.base, {**options, **local, "output_dir": str(tmp_path / str(index))})
        assert "adversary/penalty" in finite_metrics(folder)[0]


@pytest.mark.parametrize("path", PAPER_FILES, ids=name)
def test_every_paper_file_trains_a_tiny_model_of_its_class(
    path: Path, tiny_models: dict[str, Path], tiny_data: dict[str, Path], tmp_path: Path
) -> None:
    folder = ganpo_core.train(path, paper_overrides(path, tiny_models, tiny_data, tmp_path / "out"))
    lines = finite_metrics(folder)
    assert lines[0]["rewards/margins"] == 0.0 or "simpo" in path.stem
    assert ("adversary/penalty" in lines[0]) == ("ganpo" in path.stem)
    AutoModelForCausalLM.from_pretrained(folder / "policy")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_paper_file_trains_on_a_gpu(
    tiny_models: dict[str, Path], tiny_data: dict[str, Path], tmp_path: Path
) -> None:
    path = EXAMPLES / "paper" / "gemma2_2b_ganpo_dpo.yaml"
    finite_metrics(ganpo_core.train(path, paper_overrides(path, tiny_models, tiny_data, tmp_path / "out")))


def test_the_paper_files_hold_the_papers_numbers() -> None:
    """128 pairs a step, one epoch, 2048 tokens; 5e-7 for Gemma and 1e-6 for Llama; 2 and 4 critic layers."""
    assert len(PAPER_FILES) == 8
    for path in PAPER_FILES:
        config = load_run(path)
        training, gemma = config.training, path.stem.startswith("gemma")
        assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 128
        assert (training.num_train_epochs, training.warmup_ratio, training.lr_scheduler_type) == (1.0, 0.1, "cosine")
        assert (training.learning_rate, config.data.max_length) == (5e-7 if gemma else 1e-6, 2048)
        for plan in config.adversaries:
            assert (plan.config.form, plan.config.weight, plan.config.learning_rate_ratio) == ("minimax", 1.0, 0.5)
            assert ganpo_core.component("discriminator", "transformer", num_layers=2 if gemma else 4) == plan.discriminator


@pytest.fixture
def held_out(shared: Path, tmp_path: Path) -> Path:
    """16 real pairs."""
    rows = (shared / "data" / "prefs" / "test_short.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "held_out.jsonl").write_text("".join(rows[:16]))
    return tmp_path / "held_out.jsonl"


@pytest.mark.parametrize("path", [path for path in REAL_FILES if path.stem not in LEAST_RISE], ids=name)
def test_every_real_file_takes_three_steps(path: Path, held_out: Path, tmp_path: Path) -> None:
    overrides = {"training.max_steps": 3, "data.eval_path": str(held_out), "output_dir": str(tmp_path / "out")}
    folder = ganpo_core.train(path, overrides)
    assert "eval_rewards/accuracies" in finite_metrics(folder)[-1]
    AutoModelForCausalLM.from_pretrained(folder / "policy")


def test_there_is_a_file_for_each_family_that_sees() -> None:
    assert {path.stem for path in VISION_FILES} == set(FAMILIES)


@pytest.mark.parametrize("path", VISION_FILES, ids=name)
def test_every_vision_file_trains_five_steps_is_saved_resumed_and_reloaded(path: Path, tmp_path: Path) -> None:
    """With 0 to 3 images a row; resumed after step 4, the last step gives the same weights bit for bit."""
    model = save_family(path.stem, tmp_path / "model")
    rows = write_rows(tmp_path, chat=FAMILIES[path.stem][1] is not None, sizes=((8, 8), (24, 16)))
    overrides: dict[str, object] = {
        "model.path": str(model), "data.path": str(rows), "output_dir": str(tmp_path / "out"), "training.max_steps": 5,
        "training.gradient_accumulation_steps": 2, "training.logging_steps": 1, "training.save_steps": 4,
        "training.learning_rate": 1e-3,
    }
    config = yaml.safe_load(path.read_text())
    for index, item in enumerate(config["adversaries"]):
        if "discriminator" in item:
            overrides[f"adversaries.{index}.discriminator.hidden_dim"] = 8
    folder = ganpo_core.train(path, overrides)
    lines = finite_metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[0]["rewards/margins"] == 0.0
    for item in config["adversaries"]:
        assert lines[-1][f"adversary/{item['name']}/penalty"] > 0

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for name in ("policy", "adversary", "checkpoints/step-00000005"):
        shutil.rmtree(broken / name)
    ganpo_core.train(path, {**overrides, "output_dir": str(broken)}, resume=True)
    weights = [file.read_bytes() for file in (*folder.glob("policy/*.safetensors"), *broken.glob("policy/*.safetensors"))]
    assert len(weights) == 2 and weights[0] == weights[1]
    AutoModelForImageTextToText.from_pretrained(folder / "policy")
    if "lora" not in config["model"]:
        saved = load_processor(load_run(path, {**overrides, "model.path": str(folder / "policy")}).model)
        original = load_processor(load_run(path, overrides).model)
        images = [[picture(random.Random(0))]]
        made = [each(text=[each.image_token], images=images)["input_ids"] for each in (saved, original)]
        assert made[0] == made[1]


@pytest.mark.parametrize("path", LEAST_RISE)
def test_the_training_margin_rises_on_32_rows(path: str, shared: Path, held_out: Path, tmp_path: Path) -> None:
    """12 steps over 32 short rows at 1e-4."""
    rows = (shared / "data" / "prefs" / "train_short.jsonl").read_text().splitlines(keepends=True)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(sorted(rows, key=len)[40:72]))
    folder = ganpo_core.train(
        EXAMPLES / "real" / f"{path}.yaml",
        {
            "data.path": str(data), "data.eval_path": str(held_out), "output_dir": str(tmp_path / "out"),
            "training.max_steps": 12, "training.per_device_train_batch_size": 32, "training.logging_steps": 1,
            "training.lr_scheduler_type": "constant", "training.save_steps": None,
        },
    )
    lines = finite_metrics(folder)
    margins = [line["rewards/margins"] for line in lines if "rewards/margins" in line]
    assert len(margins) == 12
    assert margins[-1] - margins[0] > LEAST_RISE[path]
    assert "eval_rewards/accuracies" in lines[-1]
    AutoModelForCausalLM.from_pretrained(folder / "policy")


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=name)
def test_accelerate_reads_every_launch_file(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == yaml.safe_load(path.read_text())["num_processes"]
    assert "-m ganpo_core train" in path.read_text()


def test_every_folder_has_a_caption() -> None:
    captions = (EXAMPLES / "README.md").read_text()
    folders = [path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert all(f"`{folder}/`" in captions for folder in folders)


def test_the_third_party_package_trains(tmp_path: Path, tiny_models: dict[str, Path], tiny_data: dict[str, Path]) -> None:
    shutil.copy(EXAMPLES / "acme_hinge" / "acme_hinge.py", tmp_path)
    run = {
        "plugins": [str(tmp_path / "acme_hinge.py")],
        "model": {"path": str(tiny_models["llama3_8b"])},
        "data": {"path": str(tiny_data["llama3_8b"])},
        "objective": {"use": "acme_hinge", "margin": 0.5},
        "training": {"max_steps": 2, "logging_steps": 1},
        "output_dir": str(tmp_path / "out"),
    }
    assert finite_metrics(ganpo_core.train(run))[0]["objective_loss"] == 0.5
