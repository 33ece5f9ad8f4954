"""A policy to sample from: a run's, or any model folder, with its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from ganpo_core import ConfigError, first_line
from ganpo_evaluation.texts import short_paths

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in evaluation mode."""

    name: str
    model: Any
    tokenizer: Any

    @property
    def context(self) -> int | None:
        """Positions that it was made for."""
        length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(length) if length else None


def load_language_model(path: str, dtype: Dtype = "float32") -> LanguageModel:
    """The policy of a run's folder, or the model of a folder or a hub name; on a CUDA device where there is one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = policy_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), use_safetensors=True).eval()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{path}: no language model there: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    name = Path(path).resolve().name if Path(path).exists() else path
    return LanguageModel(name, model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)


def load_apart(paths: Sequence[str], dtype: Dtype = "float32") -> list[LanguageModel]:
    """Several models, each with a name of its own: as many of a path's last parts as it takes."""
    places = [path for path in paths if Path(path).exists()]
    short = dict(zip(places, short_paths([Path(place) for place in places]), strict=True))
    return [replace(load_language_model(path, dtype), name=short.get(path, path)) for path in paths]


def policy_folder(path: str) -> str:
    """Where a run keeps its policy; anything else is a model itself."""
    run = Path(path)
    if (run / "policy").is_dir():
        return str(run / "policy")
    if (run / "run.yaml").is_file():
        raise ConfigError(f"{path}: a run without a policy: it has not finished; continue it with `ganpo train --resume`")
    return path


def run_file(path: str) -> dict[str, Any]:
    """The resolved run file of a run's folder. Raises ConfigError where there is none."""
    file = Path(path) / "run.yaml"
    if not file.is_file():
        raise ConfigError(f"{path}: not a run's folder: there is no run.yaml in it")
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


def reference_of(path: str) -> str:
    """The model that a run's policy was anchored to."""
    model = run_file(path)["model"]
    return str(model.get("reference") or model["path"])
