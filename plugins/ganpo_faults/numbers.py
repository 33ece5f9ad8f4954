"""A value that is not finite, in each place where one can arise: caught before the update, and reproduced from its bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from ganpo_faults.group import start_group
from ganpo_faults.site import GAME, WORDS, Site
from ganpo_faults.state import last_line, newest_checkpoint
from ganpo_faults.trial import Family, Trial

MARKED = 20
"""Words of the chosen response of the one row that poisons, where a row does; no other is as long."""

INTO_STATE = """\
import gc
import torch
from ganpo_core import hookimpl

@hookimpl
def ganpo_step_finished(report):
    if report.step == 3:
        (run,) = [found for found in gc.get_objects() if type(found).__name__ == "Run" and hasattr(found, "regularizers")]
        with torch.no_grad():
            POISON
"""
"""A plugin that writes into the live run after step 3, as a defective memory or a careless plugin would."""

PARTS = """\
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn
from ganpo_core import Discriminator, Divergence, Objective, component, hookimpl

MARKED = NUMBER


class Poisoned(torch.autograd.Function):
    @staticmethod
    def forward(context, values, rows):
        context.save_for_backward(rows)
        return values.clone()

    @staticmethod
    def backward(context, gradient):
        (rows,) = context.saved_tensors
        return gradient.masked_fill(rows, float("inf")), None


@dataclass(frozen=True)
class PoisonedLoss(Objective):
    \"\"\"DPO, but for the marked row.\"\"\"

    gradient: bool = False
    \"\"\"Poison the gradient instead of the value.\"\"\"

    def loss(self, policy, reference):
        found = component("objective", "dpo").loss(policy, reference)
        rows = policy.chosen.mask.sum(1) >= MARKED
        if self.gradient:
            return replace(found, per_pair=Poisoned.apply(found.per_pair, rows))
        return replace(found, per_pair=found.per_pair.masked_fill(rows, float("nan")))


class PoisonedCritic(nn.Module):
    def __init__(self, inner, gradient):
        super().__init__()
        self.inner, self.gradient = inner, gradient

    def forward(self, states, mask):
        scores, rows = self.inner(states, mask), mask.sum(1) >= MARKED
        return Poisoned.apply(scores, rows) if self.gradient else scores.masked_fill(rows, float("nan"))


@dataclass(frozen=True)
class PoisonedDiscriminator(Discriminator):
    \"\"\"An MLP, but for the marked row.\"\"\"

    gradient: bool = False
    \"\"\"Poison the gradient instead of the value.\"\"\"

    @property
    def lipschitz(self):
        return False

    def build(self, latent_dim):
        return PoisonedCritic(component("discriminator", "mlp", hidden_dim=8).build(latent_dim), self.gradient)


@hookimpl
def ganpo_objectives():
    return {"poisoned": PoisonedLoss}


@hookimpl
def ganpo_discriminators():
    return {"poisoned": PoisonedDiscriminator}
"""


@dataclass(frozen=True)
class Place:
    """Where a value is poisoned, and how the run is told to."""

    name: str
    sections: Mapping[str, Any] = field(default_factory=dict)
    poison: str = ""
    """Python that is run on `run` after step 3."""
    row_is_named: bool = False


QUEUE = {"latents": {"use": "hidden_state"}, "divergence": {"use": "mmd", "queue": 6}, "adversary": {"weight_warmup_ratio": 0}}
PLACES = (
    Place("a weight of the policy", GAME, "run.models.policy.model.layers[1].mlp.down_proj.weight[3, 5] = float('nan')"),
    Place("one row's loss", {**GAME, "objective": {"use": "poisoned"}}, row_is_named=True),
    Place("one row's gradient", {**GAME, "objective": {"use": "poisoned", "gradient": True}}, row_is_named=True),
    Place("a critic's gradient", {**GAME, "discriminator": {"use": "poisoned", "gradient": True}}, row_is_named=True),
    Place("a critic's logits", {**GAME, "discriminator": {"use": "poisoned"}}, row_is_named=True),
    Place("a weight of the reference", GAME, "run.models.reference.lm_head.weight[7, 2] = float('inf')"),
    Place("a running mean", GAME, "run.regularizers[0].baselines.means.values_KG[0, 1] = float('nan')"),
    Place("the queue of past latents", QUEUE, "run.regularizers[0]._queues['chosen'][2] = float('inf')"),
)


def run(site: Site, trials: int) -> Iterator[Trial]:
    """Each place, up to `trials` of them; then a model that is broken before it starts."""
    words = " ".join(WORDS[:MARKED])
    lines = site.pairs.read_text(encoding="utf-8").splitlines()
    lines[33] = json.dumps({"prompt": "<bos> w1 w2", "chosen": f" {words}", "rejected": " w3 w4"})
    marked = site.folder / "marked.jsonl"
    marked.write_text("\n".join(lines) + "\n", encoding="utf-8")
    parts = site.folder / "parts.py"
    parts.write_text(PARTS.replace("NUMBER", str(MARKED)), encoding="utf-8")
    chosen = PLACES if trials >= len(PLACES) else site.random.sample(PLACES, trials)
    for number, place in enumerate(chosen):
        into = site.folder / f"into_{number}.py"
        into.write_text(INTO_STATE.replace("POISON", place.poison or "pass"), encoding="utf-8")
        path = site.run_file(
            f"poisoned_{number}",
            **place.sections,
            data={"path": str(marked)},
            plugins=[str(parts), str(into)],
            training={"max_steps": 14, "save_steps": 2 if place.poison else 1},
        )
        yield _judge(site, place, path)
    if trials >= len(PLACES):
        yield _broken_model(site)
        yield _two_processes(site, marked, parts)


def _judge(site: Site, place: Place, path: Path) -> Trial:
    """It stopped, said so, had updated nothing, and the bundle shows it again."""
    folder = site.folder / path.stem
    code, text = site.ganpo("train", path)
    reason = last_line(text)
    if code != 1 or "not finite" not in reason:
        return Trial(place.name, False, f"exit {code}: {reason}")
    bundle = next(iter(sorted((folder / "replay").glob("step-*"))), None)
    if bundle is None:
        return Trial(place.name, False, f"no bundle: {reason}")
    if place.poison:
        stopped = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["step"] + 1
        if stopped != 4:
            return Trial(place.name, False, f"stopped at step {stopped}, not at 4, the first after the poison")
    elif moved := _moved(newest_checkpoint(folder), bundle):
        return Trial(place.name, False, f"updated before it stopped: {moved}")
    code, text = site.ganpo("replay", bundle)
    if code != 0 or "reproduced" not in text.splitlines():
        return Trial(place.name, False, f"replay: exit {code}: {last_line(text)}")
    if place.row_is_named and "marked.jsonl row 34" not in text.replace(reason, ""):
        return Trial(place.name, False, f"replay did not name the row: {last_line(text)}")
    return Trial(place.name, True, reason)


def _moved(checkpoint: Path, bundle: Path) -> list[str]:
    """Tensors that differ between the checkpoint after the step before and the bundle of the step that was stopped."""
    found = []
    for name in ("policy.safetensors", "adversary.safetensors"):
        before, after = load_file(checkpoint / name), load_file(bundle / name)
        found += [key for key in after if before[key].tobytes() != after[key].tobytes()]
    return found


def _broken_model(site: Site) -> Trial:
    """NaN in a row of the embedding that no pair reads: no loss would ever show it."""
    import shutil

    from safetensors.numpy import save_file

    model = site.folder / "broken"
    shutil.copytree(site.model, model)
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"][3, 3] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    path = site.run_file("broken_model", **GAME, model={"path": str(model)})
    code, text = site.ganpo("train", path)
    passed = code == 1 and "model.embed_tokens.weight" in last_line(text)
    passed = passed and not (site.folder / "broken_model" / "checkpoints").exists()
    return Trial("a weight of the model, before the first step, that no row reads", passed, last_line(text))


def _two_processes(site: Site, marked: Path, parts: Path) -> Trial:
    """One of two processes has the row; both stop, neither waits for the other."""
    path = site.run_file(
        "poisoned_pair",
        **{**GAME, "objective": {"use": "poisoned"}},
        data={"path": str(marked)},
        plugins=[str(parts)],
        training={"max_steps": 14, "per_device_train_batch_size": 2},
    )
    group = start_group(site, path, 2)
    codes = [process.wait(60) for process in group.processes]
    if None in codes:
        group.kill(0)
    said = [last_line(process.output()) for process in group.processes]
    bundles = list((site.folder / "poisoned_pair" / "replay").glob("step-*"))
    if codes != [1, 1] or len(bundles) != 1 or not all("not finite" in line for line in said):
        return Trial("one row's loss, on one of two processes", False, f"exits {codes}: {said}")
    code, text = site.ganpo("replay", bundles[0])
    passed = code == 0 and "does it alone  marked.jsonl row 34" in text
    return Trial("one row's loss, on one of two processes", passed, said[0] if passed else f"replay: {last_line(text)}")


FAMILY = Family(
    name="numbers",
    title="NaN or Inf in eight places, in a model before it starts, on one of two processes",
    must="caught before the update, non-zero exit, reproduced from the bundle",
    peers="exit 0, loss 0.0",
    trials=8,
    run=run,
    short=1,
)
