"""Loading: what is refused, what agrees, and what is kept in which precision."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ganpo_core.config import LoraConfig, ModelConfig
from ganpo_core.errors import ConfigError, TrainingError
from ganpo_core.models import context_length, load_models, load_tokenizer, save_policy

CPU = torch.device("cpu")


def test_pickled_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    config = ModelConfig(path=str(folder))
    with pytest.raises(ConfigError, match=r"no \.safetensors weights; pickled ones .* are refused"):
        load_models(config, load_tokenizer(config), CPU, needs_reference=False)


def test_a_folder_without_a_tokenizer_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "silent"
    folder.mkdir()
    shutil.copy(tiny_model / "config.json", folder)
    with pytest.raises(ConfigError, match=r"model\.path: no tokenizer in '.*silent'"):
        load_tokenizer(ModelConfig(path=str(folder)))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny_model: Path) -> None:
    config = ModelConfig(path=str(tiny_model))
    tokenizer = load_tokenizer(config)
    tokenizer.add_tokens(["one-too-many"])
    with pytest.raises(TrainingError, match="knows 29 tokens and the model embeds 28"):
        load_models(config, tokenizer, CPU, needs_reference=False)


def test_policy_and_reference_are_the_same_weights_apart(tiny_model: Path) -> None:
    config = ModelConfig(path=str(tiny_model))
    models = load_models(config, load_tokenizer(config), CPU, needs_reference=True)
    assert models.reference is not None
    for (name, mine), theirs in zip(models.policy.named_parameters(), models.reference.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
        assert mine.requires_grad and not theirs.requires_grad
        assert mine.data_ptr() != theirs.data_ptr()


def test_the_dropout_of_adapters_is_their_own(tiny_model: Path) -> None:
    config = ModelConfig(path=str(tiny_model), lora=LoraConfig(r=2, dropout=0.25))
    policy = load_models(config, load_tokenizer(config), CPU, needs_reference=True).policy
    found = {module.p for module in policy.modules() if isinstance(module, torch.nn.Dropout)}
    assert found == {0.25}


@pytest.mark.parametrize(
    ("dtype", "weights"), [("float32", torch.float32), ("bfloat16", torch.float32), ("float64", torch.float64)]
)
def test_trained_weights_are_at_least_float32(dtype: str, weights: torch.dtype, tiny_model: Path) -> None:
    config = ModelConfig(path=str(tiny_model), dtype=dtype)  # type: ignore[arg-type]
    models = load_models(config, load_tokenizer(config), CPU, needs_reference=False)
    assert {weight.dtype for weight in models.policy.parameters()} == {weights}


def test_lora_freezes_the_base_in_the_computations_type(tiny_model: Path) -> None:
    """2 layers x 7 linear maps x 2 matrices are trained, in float32; the base stays in bfloat16."""
    config = ModelConfig(path=str(tiny_model), dtype="bfloat16", lora=LoraConfig(r=2))
    models = load_models(config, load_tokenizer(config), CPU, needs_reference=True)
    trained = models.trainable()
    assert models.reference is None
    assert len(trained) == 28
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    frozen = [weight for weight in models.policy.parameters() if not weight.requires_grad]
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}


def test_the_output_matrix_can_be_frozen(tiny_model: Path) -> None:
    config = ModelConfig(path=str(tiny_model), freeze_output=True)
    trained = load_models(config, load_tokenizer(config), CPU, needs_reference=False).trainable()
    assert "lm_head.weight" not in trained
    assert "model.layers.0.mlp.up_proj.weight" in trained


def test_quantization_without_adapters_is_refused(tiny_model: Path) -> None:
    config = ModelConfig(path=str(tiny_model), quantization="4bit")
    with pytest.raises(ConfigError, match=r"model\.quantization: .* add `lora:` and use a CUDA device"):
        load_models(config, load_tokenizer(config), CPU, needs_reference=False)


def test_context_length_is_read_without_weights(tiny_model: Path) -> None:
    assert context_length(ModelConfig(path=str(tiny_model))) == 64


def test_a_saved_policy_loads_again(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = ModelConfig(path=str(tiny_model))
    models = load_models(config, load_tokenizer(config), CPU, needs_reference=False)
    save_policy(models, tmp_path / "policy")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "policy")) == 28
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), models.policy.parameters(), strict=True))
