"""Adapters on a policy, instead of training its own weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from ganpo_core.config import ModelConfig
from ganpo_core.errors import ConfigError, first_line


def with_adapters(policy: Any, config: ModelConfig, part: nn.Module | None = None) -> Any:
    """The policy with adapters to train, in one `part` of it alone where one is given.

    Raises ConfigError where peft is not installed, or finds no module to adapt.
    """
    assert config.lora is not None
    try:
        import peft
    except ImportError as error:
        raise ConfigError("model.lora: needs peft; install it with `pip install 'ganpo[peft]'`") from error
    if config.quantization:
        policy = peft.prepare_model_for_kbit_training(policy, use_gradient_checkpointing=False)
    target = config.lora.target_modules if isinstance(config.lora.target_modules, str) else list(config.lora.target_modules)
    settings = peft.LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=target if part is None else _within(part, policy, target),
        task_type="CAUSAL_LM",
    )
    try:
        return peft.get_peft_model(policy, settings)
    except ValueError as error:
        raise ConfigError(f"model.lora: {first_line(error)}") from error


def _within(part: nn.Module, policy: nn.Module, target: str | list[str]) -> str | list[str]:
    """The modules of the part that `target` means; an expression of the user's own is left as it is."""
    if isinstance(target, str) and target != "all-linear":
        return target
    inside = {id(module) for module in part.modules()}
    return [
        name
        for name, module in policy.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear) and (isinstance(target, str) or _ends(name, target))
    ]


def _ends(name: str, suffixes: list[str]) -> bool:
    return any(name == suffix or name.endswith(f".{suffix}") for suffix in suffixes)
