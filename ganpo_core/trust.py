"""What a model from elsewhere may bring: numbers and text. Code, pickles, and paths out of its folder are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ganpo_core.errors import ConfigError, first_line

INDEX = "model.safetensors.index.json"
PICKLES = (
    "pickled ones (.bin, .pt) are refused, since reading them runs code. Save the model again with transformers' "
    "save_pretrained"
)


def check_weights(key: str, path: str) -> None:
    """Raises ConfigError for a model folder whose weights would be unpickled, or lie outside of it; hub names pass."""
    folder = Path(path)
    if not folder.is_dir():
        return
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{key}: '{path}' holds no .safetensors weights; {PICKLES}")
    if (folder / "adapter_config.json").is_file() and not (folder / "adapter_model.safetensors").is_file():
        raise ConfigError(f"{key}: '{path}' holds an adapter without adapter_model.safetensors; {PICKLES}")
    index = folder / INDEX
    if index.is_file() and not (folder / "model.safetensors").is_file():
        _check_index(key, index)


def check_settings(key: str, path: str, config: Any) -> None:
    """Raises ConfigError for a model's configuration that would fetch code: an attention kernel named by a repository."""
    for part in (config, config.get_text_config()):
        attention = getattr(part, "_attn_implementation", None)
        if isinstance(attention, str) and "/" in attention:
            raise ConfigError(
                f"{key}: the config.json of '{path}' asks for the attention kernel '{attention}', which is code from "
                "elsewhere; remove `attn_implementation` from it. model.attention chooses the implementation"
            )


def check_complete(key: str, path: str, found: Mapping[str, Any]) -> None:
    """Raises ConfigError for weights that the files lack: they would be drawn at random, without a word."""
    missing = [str(name) for name in found.get("missing_keys", ())]
    missing += [str(name[0] if isinstance(name, tuple) else name) for name in found.get("mismatched_keys", ())]
    if missing:
        raise ConfigError(
            f"{key}: the files of '{path}' lack {len(missing)} of the model's weights or hold them in another shape, such "
            f"as {sorted(missing)[0]}; is it a language model, and was all of it copied?"
        )


def loading_reason(error: Exception) -> str:
    """Why a model could not be loaded, in one line, with what to do about code of its own."""
    text = str(error)
    if "trust_remote_code" in text or "custom code" in text:
        return (
            "it brings Python code of its own (`auto_map` in its files), which is not run. Read that code; if you trust "
            "it, pass --trust-remote-code on the command line"
        )
    return first_line(error)


def _check_index(key: str, index: Path) -> None:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        outside = sorted(name for name in shards if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{key}: {index} cannot be read as an index of weights ({type(error).__name__}: {error})") from error
    if outside:
        raise ConfigError(f"{key}: {index} names '{outside[0]}', which lies outside of the model's folder")
    for name in sorted(shards):
        if not name.endswith(".safetensors"):
            raise ConfigError(f"{key}: {index} names '{name}'; {PICKLES}")
        if not (index.parent / name).is_file():
            raise ConfigError(f"{key}: {index} names '{name}', which is missing; copy the model again")
