"""A tiny reward model with a chat template, and small files of responses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ganpo_core

TEMPLATE = (
    "{% for m in messages %}{{ '<user> ' if m['role'] == 'user' else '<model> ' }}{{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}{{ '<model> ' }}{% endif %}"
)
WORDS = ["<pad>", "<eos>", "<unk>", "<user>", "<model>", *(f"w{index}" for index in range(20))]


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with one label and a word-level tokenizer with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("reward")
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, num_labels=1, initializer_range=0.3,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def run(tiny_model: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of GANPO on random words, at a learning rate that moves the policy."""
    folder = tmp_path_factory.mktemp("run") / "ganpo"
    return ganpo_core.train(
        {
            "model": {"path": str(tiny_model)},
            "data": {"path": str(tiny_pairs)},
            "objective": {"use": "dpo"},
            "latents": {"use": "hidden_state"},
            "discriminator": {"use": "transformer", "hidden_dim": 8, "num_heads": 2},
            "divergence": {"use": "ragan"},
            "adversary": {"learning_rate": 1e-2},
            "training": {"learning_rate": 5e-3, "max_steps": 6, "per_device_train_batch_size": 4, "save_steps": None},
            "output_dir": str(folder),
        }
    )
