"""Plugins that raise, leave, lie and meddle: one line that names plugin, place and version, and the saved state intact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ganpo_core.folders import find_flaw
from ganpo_core.output import CHECKPOINTS
from ganpo_faults.site import Site
from ganpo_faults.trial import Family, Trial

GAME: Mapping[str, Any] = {
    "objective": {"use": "mine"},
    "latents": {"use": "mine"},
    "divergence": {"use": "mine"},
    "discriminator": {"use": "mine"},
    "adversary": {"form": "non_saturating", "weight_warmup_ratio": 0},
    "training": {"max_steps": 4, "save_steps": 1, "logging_steps": 1},
}
DIRECT: Mapping[str, Any] = {
    "objective": {"use": "mine"},
    "latents": {"use": "mine"},
    "divergence": {"use": "mine_direct"},
    "training": GAME["training"],
}
GOOD = '''\
import sys
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import nn
from torch.nn.functional import logsigmoid, softplus
from ganpo_core import Discriminator, Divergence, LatentExtractor, Latents, Layer, Objective, PairLoss, hookimpl

WHERE, KIND, AFTER = "", "", 0
STEP = 0

@dataclass(frozen=True)
class MyObjective(Objective):
    def loss(self, policy, reference):
        chosen = policy.chosen.total - reference.chosen.total
        rejected = policy.rejected.total - reference.rejected.total
        return PairLoss(-logsigmoid(0.1 * (chosen - rejected)), chosen.detach(), rejected.detach())

@dataclass(frozen=True)
class MyLatents(LatentExtractor):
    def sources(self, model):
        return (Layer(-1),)
    def extract(self, captured, tokens):
        return Latents(captured[Layer(-1)], tokens.valid)

class Critic(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.head = nn.Linear(width, 1)
    def forward(self, states, mask):
        weights = mask / mask.sum(1, keepdim=True).clamp(min=1)
        return self.head((states * weights[..., None]).sum(1)).squeeze(1)

@dataclass(frozen=True)
class MyDiscriminator(Discriminator):
    def build(self, latent_dim):
        return Critic(latent_dim)

@dataclass(frozen=True)
class MyDivergence(Divergence):
    def critic_loss(self, high, low):
        return high.average(softplus(-high.values)) + low.average(softplus(low.values))
    def policy_loss(self, policy, anchor, form):
        return policy.average(softplus(-policy.values))
    def estimate(self, anchor, policy):
        return anchor.average(anchor.values) - policy.average(policy.values)

@dataclass(frozen=True)
class MyDistance(Divergence):
    needs_critic: ClassVar[bool] = False
    def distance(self, policy, reference):
        return (policy.states - reference.states).square().mean()

@hookimpl
def ganpo_objectives():
    return {"mine": MyObjective}

@hookimpl
def ganpo_latent_extractors():
    return {"mine": MyLatents}

@hookimpl
def ganpo_divergences():
    return {"mine": MyDivergence, "mine_direct": MyDistance}

@hookimpl
def ganpo_discriminators():
    return {"mine": MyDiscriminator}

@hookimpl
def ganpo_step_finished(report):
    global STEP
    STEP = report.step
'''
BREAK = '''
def tensors(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict):
            yield from tensors(value.values())
        elif hasattr(value, "__dataclass_fields__"):
            yield from tensors(vars(value).values())

def broken(original):
    def method(self, *arguments):
        if STEP < AFTER:
            return original(self, *arguments)
        if KIND == "raises":
            raise RuntimeError("boom")
        if KIND == "exits":
            sys.exit(0)
        if KIND == "none":
            return None
        if KIND == "shape":
            return torch.zeros(7, 7, 7)
        if KIND == "mutates":
            with torch.no_grad():
                next(tensors(arguments)).mul_(2)
            return original(self, *arguments)
        if KIND == "nan":
            found = original(self, *arguments)
            if isinstance(found, PairLoss):
                return PairLoss(found.per_pair * torch.nan, found.chosen_reward, found.rejected_reward)
            return found * torch.nan
    return method

owner, name = WHERE.split(".")
setattr(globals()[owner], name, broken(getattr(globals()[owner], name)))
'''
METHODS = {
    "MyObjective.loss": ("raises", "exits", "none", "shape", "mutates", "nan"),
    "MyLatents.extract": ("raises", "exits", "none", "shape", "mutates"),
    "MyLatents.sources": ("raises", "exits", "none"),
    "MyDivergence.critic_loss": ("raises", "exits", "none", "shape", "mutates", "nan"),
    "MyDivergence.policy_loss": ("raises", "exits", "none", "shape", "mutates", "nan"),
    "MyDivergence.estimate": ("raises", "none", "shape", "mutates"),
    "MyDivergence.penalty": ("raises", "exits", "shape"),
    "MyDivergence.project": ("raises", "exits"),
    "MyDistance.distance": ("raises", "exits", "none", "shape", "mutates", "nan"),
    "MyDiscriminator.build": ("raises", "exits", "none"),
    "Critic.forward": ("raises", "exits", "none", "shape", "mutates", "nan"),
}
HOOKS = ("ganpo_objectives", "ganpo_latent_extractors", "ganpo_divergences", "ganpo_discriminators")
WHOLE: Mapping[str, tuple[str, str]] = {
    **{f"{hook} raises": (GOOD.replace(f"def {hook}():\n    ", f"def {hook}():\n    1 / 0\n    "), hook) for hook in HOOKS},
    **{f"{hook} exits": (GOOD.replace(f"def {hook}():\n    ", f"def {hook}():\n    sys.exit(0)\n    "), hook) for hook in HOOKS},
    "ganpo_step_finished raises": (GOOD + "    if STEP == 2: 1 / 0\n", "ganpo_step_finished"),
    "ganpo_step_finished exits": (GOOD + "    if STEP == 2: sys.exit(0)\n", "ganpo_step_finished"),
    "ganpo_step_finished changes the report": (
        GOOD + "    if STEP == 2: report.metrics['loss'] = 0.0\n", "ganpo_step_finished"
    ),
    "a hook of a wrong name": (GOOD.replace("def ganpo_objectives(", "def ganpo_objectivs("), "ganpo_objectivs"),
    "a hook with an argument too many": (GOOD.replace("def ganpo_objectives()", "def ganpo_objectives(run)"), "ganpo_objectives"),
    "a hook without its mark": (GOOD.replace("@hookimpl\ndef ganpo_objectives", "def ganpo_objectives"), "ganpo_objectives"),
    "a hook that returns None": (GOOD.replace('return {"mine": MyObjective}', "return None"), "ganpo_objectives"),
    "a name that another plugin has": (GOOD.replace('"mine": MyObjective', '"dpo": MyObjective'), "ganpo_objectives"),
    "a class that is no component": (GOOD.replace('"mine": MyObjective', '"mine": Critic'), "objective 'mine'"),
    "an import that fails": ("import nothing_of_this_name\n" + GOOD, "nothing_of_this_name"),
    "an import that exits": ("import sys\nsys.exit(0)\n" + GOOD, "does not import"),
    "a mistake of grammar": (GOOD + "def (:\n", "does not import"),
}
"""(the plugin, what else must be named) by what is wrong with it."""


def run(site: Site, trials: int) -> Iterator[Trial]:
    """Every fault once, or so many of them, evenly picked."""
    cases = list(_cases())
    step = max(1, len(cases) // trials)
    for number, (name, text, sections, place) in enumerate(cases[::step]):
        plugin = site.folder / f"faulty_{number}.py"
        plugin.write_text(text, encoding="utf-8")
        run_file = site.run_file(f"run_{number}", plugins=[str(plugin)], **sections)
        code, output = site.ganpo("train", run_file, log=f"run_{number}.log")
        yield Trial(name, *_verdict(code, output, plugin.stem, place, site.folder / f"run_{number}"))


def _cases() -> Iterator[tuple[str, str, Mapping[str, Any], str]]:
    for where, kinds in METHODS.items():
        for kind in kinds:
            after = 0 if where.endswith("build") else 2
            settings = f'WHERE, KIND, AFTER = "{where}", "{kind}", {after}'
            text = GOOD.replace('WHERE, KIND, AFTER = "", "", 0', settings) + BREAK
            yield f"{where}: {kind}", text, DIRECT if where.startswith("MyDistance") else GAME, where
    for name, (text, place) in WHOLE.items():
        yield name, text, GAME, place


def _verdict(code: int | None, output: str, plugin: str, place: str, folder: Any) -> tuple[bool, str]:
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    said = errors[0] if errors else output[-300:]
    wrong = []
    if code in (0, None):
        wrong.append(f"exit code {code}")
    if len(errors) != 1 or "Traceback" in output:
        wrong.append("not one line")
    wrong += [f"without {word}" for word in (plugin, place, "sha256:") if word not in said]
    saved = sorted((folder / CHECKPOINTS).glob("step-*"))
    wrong += [f"{path.name}: {flaw}" for path in saved if (flaw := find_flaw(path))]
    return not wrong, f"{'; '.join(wrong)}{': ' if wrong else ''}{said} ({len(saved)} checkpoints verify)"


FAMILY = Family(
    name="plugins",
    title="plugin faults: raises, wrong shape, NaN, None, changes its input, exits, wrong hooks",
    must="plugin, place and version named in one line; saved state intact",
    peers="",
    trials=100,
    run=run,
    short=5,
)
