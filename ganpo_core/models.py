"""Tokenizer, policy and frozen reference: loaded the same way, so that they agree bit for bit at the start."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ganpo_core import vision
from ganpo_core.adapters import with_adapters
from ganpo_core.anatomy import disable_dropout, is_composite, stored_buffers, text_config
from ganpo_core.config import ModelConfig
from ganpo_core.errors import ConfigError, TrainingError
from ganpo_core.trust import check_complete, check_settings, check_weights, loading_reason
from ganpo_core.types import Source
from ganpo_core.vision import sees

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass
class Models:
    """The two models of a run, and how to run them."""

    tokenizer: Any
    policy: nn.Module
    """As transformers (or peft) made it; `callable_policy` may wrap it."""
    reference: nn.Module | None
    """None where the reference is the policy with its adapters off."""
    dtype: torch.dtype
    """Of the computation."""
    device: torch.device
    callable_policy: nn.Module | None = None
    """The policy behind DistributedDataParallel, where there are several processes."""
    averages_gradients: bool = False
    """Whether the mean of gradients over processes is taken after a step's last backward, rather than within it."""
    processor: Any = None
    """Of a model that sees; None for one that reads text alone."""
    image_widths: dict[Source, int] = field(default_factory=dict)
    """Of the states of images that latents are read from: batches without images have none to tell."""

    @property
    def latent_dim(self) -> int:
        """Width of the policy's hidden states."""
        return int(text_config(self.policy).hidden_size)

    def run_policy(self, **inputs: Any) -> Any:
        """A forward pass of the policy."""
        with self.autocast():
            return (self.callable_policy or self.policy)(**inputs)

    @contextmanager
    def as_reference(self) -> Iterator[nn.Module]:
        """The reference, for forward passes without gradients."""
        adapters_off = self.policy.disable_adapter() if self.reference is None else nullcontext()  # type: ignore[operator]
        with torch.no_grad(), adapters_off, self.autocast():
            yield self.policy if self.reference is None else self.reference

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 matrix products over float32 weights, where `model.dtype` asks for them."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def weights(self) -> dict[str, torch.Tensor]:
        """Every weight of policy and reference, by name, and what else their files hold."""
        found = {**dict(self.policy.named_parameters()), **stored_buffers(self.policy)}
        if self.reference is not None:
            theirs = {**dict(self.reference.named_parameters()), **stored_buffers(self.reference)}
            found |= {f"reference {name}": weight for name, weight in theirs.items()}
        return {name: weight.detach() for name, weight in found.items()}

    def computed(self) -> dict[str, torch.Tensor]:
        """Tensors of policy and reference that their files do not hold, such as the frequencies of positions, by name."""
        stored = self.weights()
        found = dict(self.policy.named_buffers())
        if self.reference is not None:
            found |= {f"reference {name}": buffer for name, buffer in self.reference.named_buffers()}
        return {name: buffer for name, buffer in found.items() if name not in stored}

    def moving(self) -> dict[str, torch.Tensor]:
        """What training may change of the policy, by name: parameters, and buffers such as a batch norm's running mean."""
        return {**self.trainable(), **stored_buffers(self.policy)}

    def trainable(self) -> dict[str, nn.Parameter]:
        """The policy's parameters that training changes, by name."""
        return {name: weight for name, weight in self.policy.named_parameters() if weight.requires_grad}


def load_processor(config: ModelConfig, trust_remote_code: bool = False) -> Any | None:
    """The processor of a model that sees, None for one that reads text alone."""
    found = load_config(config, trust_remote_code)
    if not sees(found):
        return None
    processor = vision.load_processor(config.path, config.revision, found, trust_remote_code)
    _choose_padding(processor.tokenizer, config.path)
    return processor


def load_tokenizer(config: ModelConfig, trust_remote_code: bool = False) -> Any:
    """The model's tokenizer, padding with its end-of-sequence token if it has no padding token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            config.path, revision=config.revision, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # of any kind: the tokenizer's files may hold anything
        raise ConfigError(f"model.path: no tokenizer in '{config.path}': {loading_reason(error)}") from error
    _choose_padding(tokenizer, config.path)
    return tokenizer


def load_config(config: ModelConfig, trust_remote_code: bool = False, key: str = "model.path") -> Any:
    """The model's own configuration; `key` is "model.reference" for the reference's."""
    from transformers import AutoConfig

    path = config.path if key == "model.path" else str(config.reference)
    try:
        found = AutoConfig.from_pretrained(path, revision=config.revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # of any kind: config.json may hold anything
        raise ConfigError(f"{key}: no configuration in '{path}': {loading_reason(error)}") from error
    check_settings(key, path, found)
    return found


def context_length(config: ModelConfig, trust_remote_code: bool = False) -> int | None:
    """Positions that the model was made for, from its configuration alone; None where it does not say."""
    found = load_config(config, trust_remote_code)
    length = getattr(found.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def load_models(
    config: ModelConfig,
    tokenizer: Any,
    device: torch.device,
    needs_reference: bool,
    processor: Any = None,
    trust_remote_code: bool = False,
) -> Models:
    """Policy and reference on `device`. Raises ConfigError for what cannot be loaded as the file asks."""
    if config.quantization and (config.lora is None or device.type != "cuda"):
        raise ConfigError("model.quantization: a 4-bit base cannot be trained itself; add `lora:` and use a CUDA device")
    policy = _load(config, "model.path", trust_remote_code)
    if config.disable_dropout:  # before there are adapters, which have a dropout of their own
        disable_dropout(policy)
    _check_vocabulary(policy, tokenizer)
    if processor is not None:
        _check_image_token(policy, processor)
    reference: nn.Module | None = None
    if config.lora is not None:
        if config.reference is not None:
            raise ConfigError("model.reference: with `lora` the reference is the base model; remove one of the two")
        policy = with_adapters(policy, config, _adapted_part(policy, config))
    elif needs_reference:
        key = "model.path" if config.reference is None else "model.reference"
        reference = _load(config, key, trust_remote_code).requires_grad_(False).eval()
    policy.train()
    if config.freeze:
        freeze_parts(policy, config, processor)
    if config.freeze_output:
        policy.get_output_embeddings().requires_grad_(False)
    if not any(weight.requires_grad for weight in policy.parameters()):
        raise ConfigError("model: nothing is left to train")
    if not config.quantization:
        policy.to(device)
    if reference is not None:
        reference.to(device)
    return Models(tokenizer, policy, reference, DTYPES[config.dtype], device, processor=processor)


def load_skeleton(config: ModelConfig, trust_remote_code: bool = False) -> Any:
    """The policy as `load_models` makes it, from its configuration alone: on the meta device, shapes without values."""
    options: dict[str, Any] = {} if config.attention == "auto" else {"attn_implementation": config.attention}
    found = load_config(config, trust_remote_code)
    try:
        with torch.device("meta"):
            policy = _model_class(found).from_config(
                found, dtype=_weight_dtype(config), trust_remote_code=trust_remote_code, **options
            )
    except Exception as error:
        raise ConfigError(f"model.path: no model can be made of '{config.path}': {loading_reason(error)}") from error
    if config.lora is not None:
        with torch.device("meta"):
            policy = with_adapters(policy, dataclasses.replace(config, quantization=None), _adapted_part(policy, config))
    if config.freeze_output:
        policy.get_output_embeddings().requires_grad_(False)
    return policy.train()


def save_policy(models: Models, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write the policy (or its adapters) and the tokenizer as `from_pretrained` reads them.

    `weights` are the whole policy's, gathered, where its own are sharded.
    """
    options = {} if weights is None else {"state_dict": weights}
    models.policy.save_pretrained(folder, **options)  # type: ignore[operator]
    (models.processor or models.tokenizer).save_pretrained(folder)


def _load(config: ModelConfig, key: str, trust_remote_code: bool) -> Any:
    """The model that `model.path` or `model.reference` names, all of its weights read from its files."""
    from transformers.utils import logging

    path = config.path if key == "model.path" else str(config.reference)
    check_weights(key, path)
    settings = load_config(config, trust_remote_code, key)
    logging.disable_progress_bar()  # the run has one of its own
    options: dict[str, Any] = {
        "revision": config.revision, "use_safetensors": True, "trust_remote_code": trust_remote_code
    }
    if config.attention != "auto":
        options["attn_implementation"] = config.attention
    if config.quantization:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPES[config.dtype]
        )
    options["dtype"] = _weight_dtype(config)
    try:
        model, found = _model_class(settings).from_pretrained(path, output_loading_info=True, **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any kind: a damaged file shows in many ways
        raise ConfigError(f"{key}: '{path}' cannot be loaded: {loading_reason(error)}") from error
    check_complete(key, path, found)
    return model


def _adapted_part(policy: Any, config: ModelConfig) -> nn.Module | None:
    """The language model of one that sees, where adapters are to be there alone."""
    assert config.lora is not None
    part: nn.Module | None = policy.get_decoder() if is_composite(policy) and not config.lora.vision else None
    return part


def _weight_dtype(config: ModelConfig) -> torch.dtype:
    """Adapters train in float32 over a base in the computation's type; full fine-tuning keeps float32 weights."""
    dtype = DTYPES[config.dtype]
    return dtype if config.lora is not None or dtype == torch.float64 else torch.float32


def _check_image_token(policy: Any, processor: Any) -> None:
    theirs, ours = getattr(policy.config, "image_token_id", None), vision.image_token_id(processor)
    if theirs is not None and theirs != ours:
        raise TrainingError(
            f"the model puts images at token {theirs} and its processor at token {ours}; use the processor that the model "
            "was trained with"
        )


def freeze_parts(policy: Any, config: ModelConfig, processor: Any) -> None:
    """Train nothing of what `model.freeze` names. Raises ConfigError for adapters, and for a model that reads text alone."""
    if processor is None or config.lora is not None:
        reason = "with `lora` only adapters are trained" if config.lora else "the model reads text alone"
        raise ConfigError(f"model.freeze: {reason}; remove it")
    parts = vision.part_names(policy, vision.blank_pixels(processor))
    weights = dict(policy.named_parameters())
    for part in config.freeze:
        for name in parts[part]:
            weights[name].requires_grad_(False)


def _model_class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if sees(config) else AutoModelForCausalLM


def _choose_padding(tokenizer: Any, path: str) -> None:
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"model.path: the tokenizer of '{path}' has neither a padding nor an end token")


def _check_vocabulary(policy: Any, tokenizer: Any) -> None:
    embedded = policy.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embedded:
        raise TrainingError(
            f"the tokenizer knows {len(tokenizer)} tokens and the model embeds {embedded}; "
            "use the tokenizer that the model was trained with"
        )
