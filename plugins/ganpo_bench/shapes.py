"""The models that are timed, with random weights, and a tokenizer of one word a token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAD, END, UNKNOWN = 0, 1, 2
SPECIAL = ("<pad>", "<eos>", "<unk>")


@dataclass(frozen=True)
class Shape:
    """A model by its configuration, and how it is usually trained."""

    name: str
    model_type: str
    config: dict[str, Any]
    pairs: int
    """Of an optimizer step."""
    critic_layers: int = 2
    is_large: bool = False
    """For a GPU: bfloat16, checkpointing, and one side after the other instead of side by side."""


_S = {
    "vocab_size": 32_000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "tie_word_embeddings": True,
}
_V = {
    "vocab_size": 256_000,
    "hidden_size": 640,
    "intermediate_size": 2560,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 80,
    "query_pre_attn_scalar": 80,
    "sliding_window": 512,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
_GEMMA2_2B = {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
}
_LLAMA3_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
_LLAMA3_70B = {
    **_LLAMA3_8B,
    "hidden_size": 8192,
    "intermediate_size": 28_672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
_TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("S", "llama", _S, pairs=4),
        Shape("V", "gemma2", _V, pairs=1),
        Shape("gemma2-2b", "gemma2", _GEMMA2_2B, pairs=2, is_large=True),
        Shape("llama3-8b", "llama", _LLAMA3_8B, pairs=2, critic_layers=4, is_large=True),
        Shape("llama3-70b", "llama", _LLAMA3_70B, pairs=2, critic_layers=4, is_large=True),
        Shape("tiny", "llama", _TINY, pairs=2),
    )
}
POSITIONS = 32_768
"""Of every shape; rotary embeddings cost the same whatever it is."""


def write_config(shape: Shape, folder: Path) -> Any:
    """`config.json` alone, which is all that `ganpo plan` needs; returns the configuration."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        shape.model_type,
        **shape.config,
        max_position_embeddings=POSITIONS,
        pad_token_id=PAD,
        bos_token_id=END,
        eos_token_id=END,
    )
    config.save_pretrained(folder)
    return config


def write_model(shape: Shape, folder: Path) -> None:
    """Configuration, tokenizer and random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    config = write_config(shape, folder)
    words = {word: index for index, word in enumerate(SPECIAL)}
    words |= {f"t{index}": index for index in range(len(SPECIAL), shape.config["vocab_size"])}
    inner = Tokenizer(models.WordLevel(words, unk_token=SPECIAL[UNKNOWN]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=SPECIAL[PAD], eos_token=SPECIAL[END], unk_token=SPECIAL[UNKNOWN]
    ).save_pretrained(folder)
    logging.disable_progress_bar()
    torch.manual_seed(0)
    dtype = torch.bfloat16 if shape.is_large else torch.float32
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
