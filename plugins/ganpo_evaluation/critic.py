"""A run's trained discriminators as judges of any response.

Shape suffixes: N rows of a batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ganpo_core import CheckpointError, Discriminator, Judge, LatentExtractor, PositiveInt, Prompt, Scorer
from ganpo_evaluation.exchange import token_pairs
from ganpo_evaluation.language_model import LanguageModel, load_language_model, reference_of, run_file

SIDES = {"chosen": 0, "rejected": 1}


@dataclass(frozen=True)
class CriticJudge(Judge):
    """The score that a finished run's discriminators give to the latents of a response (Figure 4)."""

    run: str
    """The run's folder, with `adversary/` in it."""
    latents: Literal["policy", "reference"] = "policy"
    """Whose latents of the response are scored."""
    score: Literal["C+", "C+-C-", "relativistic"] = "C+"
    """The chosen discriminator's score; less the rejected one's; or less its running mean over the reference's latents."""
    adversary: str | None = None
    """Which, where the run has several; by default the first."""
    batch_size: PositiveInt = 8
    """Responses of a forward pass."""

    def build(self) -> Scorer:
        """Loads the model and the discriminators. Raises CheckpointError where the run has none."""
        import torch

        folder = Path(self.run) / "adversary"
        section = _section(folder, self.adversary)
        extractor, discriminator = _components(self.run, section)
        model = load_language_model(self.run if self.latents == "policy" else reference_of(self.run))
        read = _reader(model, extractor, _standard(Path(self.run), str(section["name"]), extractor))
        critics: dict[str, Any] = {}

        @torch.no_grad()
        def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
            pairs = token_pairs(model.tokenizer, prompts, responses, model.context)
            scores: list[float] = []
            for start in range(0, len(pairs), self.batch_size):
                latents = read(pairs[start : start + self.batch_size])
                if not critics:
                    critics.update(_critics(folder, section, extractor, discriminator, latents.states.shape[-1]))
                    for critic in critics.values():
                        critic.to(latents.states.device).set_dropout(False)
                values_N = critics["chosen"](latents).scores
                if self.score == "C+-C-":
                    values_N = values_N - critics["rejected"](latents).scores
                if self.score == "relativistic":
                    values_N = values_N - _anchor_mean(folder, section["name"])
                scores += values_N.tolist()
            return scores

        return score


def _section(folder: Path, name: str | None) -> dict[str, Any]:
    file = folder / "adversary.json"
    if not file.is_file():
        raise CheckpointError(f"judge.run: {folder} holds no discriminators; only a finished run with a critic has them")
    found = json.loads(file.read_text(encoding="utf-8"))
    sections = found.get("adversaries") or [{"name": "latent", **found}]
    games = [section for section in sections if "discriminator" in section]
    chosen = [section for section in games if name in (None, section["name"])]
    if not chosen:
        known = ", ".join(section["name"] for section in games) or "none"
        raise CheckpointError(f"judge.adversary: {folder} has no discriminator of an adversary '{name}'; known: {known}")
    picked: dict[str, Any] = chosen[0]
    return picked


def _components(run: str, section: Mapping[str, Any]) -> tuple[LatentExtractor, Discriminator]:
    from ganpo_core.plugins import load_plugins

    plugins = load_plugins(run_file(run).get("plugins") or (), Path(run))

    def make(kind: str) -> Any:
        options = dict(section[kind])
        return plugins.registry(kind).create(str(options.pop("use")), options)

    return make("latents"), make("discriminator")


def _reader(model: LanguageModel, extractor: LatentExtractor, standard: Any) -> Callable[[Sequence[Any]], Any]:
    """(token pairs) -> latents of their responses, one row each."""
    from ganpo_core import Latents
    from ganpo_core.data import collate
    from ganpo_core.forward import response_pass
    from ganpo_core.latents import read_latents

    sources = extractor.sources(model.model)
    device = next(model.model.parameters()).device

    def read(pairs: Sequence[Any]) -> Latents:
        batch = collate(pairs, model.tokenizer.pad_token_id).to(device)
        found = response_pass(model.model, model.model, batch, sources, logps=False)
        latents = read_latents(extractor, found.captured, batch.tokens)
        latents = latents if standard is None else standard.apply(latents)
        return Latents(latents.states[: len(pairs)], latents.mask[: len(pairs)])  # the other half is the empty side

    return read


def _critics(
    folder: Path, section: Mapping[str, Any], extractor: LatentExtractor, discriminator: Discriminator, latent_dim: int
) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    from ganpo_core.adversary.critic import Critic

    prefix = "" if section["name"] == "latent" else f"{section['name']}-"
    critics = {}
    for side in SIDES:
        critic = Critic(discriminator, extractor, latent_dim, torch.float32)
        critic.load_state_dict(load_file(folder / f"{prefix}{side}.safetensors"))
        critics[side] = critic
    return critics


def _anchor_mean(folder: Path, name: str) -> float:
    from safetensors.torch import load_file

    means = load_file(folder / "means.safetensors")
    return float(means[f"{name}.means"][SIDES["chosen"], 0])


def _standard(run: Path, name: str, extractor: LatentExtractor) -> Any:
    """What latents were standardized by; a run keeps it in its last checkpoint."""
    if not extractor.is_standardized:
        return None
    from safetensors.torch import load_file

    from ganpo_core.adversary.standard import Standard

    checkpoints = sorted((run / "checkpoints").glob("step-????????"))
    if not checkpoints:
        raise CheckpointError(f"judge.run: {run} standardizes its latents, and their mean is in no checkpoint there")
    tensors = load_file(checkpoints[-1] / "adversary.safetensors")
    return Standard(*(tensors[f"{name}.standard.{part}"] for part in ("mean", "deviation")))
