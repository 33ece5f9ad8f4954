"""What the objective and the loop ask of the data and of the models, checked before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from inspect import signature
from typing import get_args

from ganpo_core.anatomy import base_model
from ganpo_core.components import Need, Objective
from ganpo_core.config import RunConfig
from ganpo_core.data import PairDataset
from ganpo_core.errors import ConfigError, DataError, PluginError
from ganpo_core.forward import TOKEN_STATISTICS
from ganpo_core.models import Models
from ganpo_core.types import BatchStatistic


def check_declarations(objective: Objective) -> None:
    """Raises PluginError for what a class says that it needs and nothing can give."""
    problems = list(_misdeclared(objective))
    if problems:
        raise PluginError("; ".join(f"{type(objective).__name__}.{problem}" for problem in problems))


def _misdeclared(objective: Objective) -> Iterator[str]:
    known: Mapping[str, tuple[str, ...]] = {"token_statistics": tuple(TOKEN_STATISTICS), "needs": get_args(Need)}
    for name, values in known.items():
        said = getattr(objective, name)
        if not isinstance(said, Set):
            yield f"{name} is {said!r}; write a set, such as frozenset({{'{values[0]}'}})"
        elif unknown := sorted(map(str, said - set(values))):
            yield f"{name} names {', '.join(unknown)}, which nothing computes; known: {', '.join(values)}"
    of_reference = [name for name, side in TOKEN_STATISTICS.items() if side != "policy"]
    if not objective.needs_reference and (asked := [name for name in of_reference if name in objective.token_statistics]):
        yield f"token_statistics names {', '.join(asked)}, which needs a reference; needs_reference is False"
    batch, kinds = objective.batch_statistics, get_args(BatchStatistic)
    if not isinstance(batch, Mapping):
        yield f"batch_statistics is {batch!r}; write a mapping of names to kinds, such as {{'rewards': 'running_mean'}}"
    elif wrong := [f"'{name}': {kind!r}" for name, kind in batch.items() if kind not in kinds]:
        yield f"batch_statistics has {', '.join(wrong)}; kinds: {', '.join(kinds)}"
    if not (objective.takes_pairs or objective.takes_unpaired):
        yield "loss is missing: define `loss(self, policy, reference)`, or `loss_unpaired` for single responses"


def check_objective_data(config: RunConfig, pairs: PairDataset) -> None:
    """Raises DataError or ConfigError for something that the objective needs and the data or a batch cannot give."""
    objective = config.objective
    section = config.resolved["objective"]
    name = section["use"] if isinstance(section, Mapping) else type(objective).__name__
    if pairs.is_unpaired and not objective.takes_unpaired:
        known = ", ".join(_taking_unpaired(config))
        raise DataError(
            f"data: the rows are single responses with a label, and objective '{name}' compares two responses. "
            f"Give rows with chosen and rejected, or use one of: {known}."
        )
    if not pairs.is_unpaired and not objective.takes_pairs:
        raise DataError(
            f"data: the rows are pairs, and objective '{name}' takes single responses alone. Give rows with prompt, "
            "completion and label."
        )
    if "preference" in objective.needs and not pairs.has_preferences:
        raise DataError(
            f"data: objective '{name}' with these options needs the column `preference` in every row, the probability "
            "between 0 and 1 that `chosen` is the better response. Add it, or use hard preferences."
        )
    if "mismatched" in objective.batch_statistics.values() and len(pairs) < 2:
        raise DataError(f"data: objective '{name}' reads responses after other rows' prompts; give at least two rows.")


def check_single_responses(config: RunConfig) -> None:
    """Raises ConfigError for adversaries that compare what unpaired data do not have."""
    for plan in config.adversaries:
        if not plan.divergence.needs_critic:
            continue
        if not plan.config.masked:
            raise ConfigError(
                "adversary.masked: masked: false would score the absent sides of single responses; set masked: true"
            )
        if plan.divergence.baseline == "pairwise" and plan.cross_weight > 0:
            raise ConfigError(
                "adversary.cross_weight: the cross term of this divergence compares a response with its partner, and single "
                "responses have none; set cross_weight: 0"
            )


def check_reference_cache(config: RunConfig) -> None:
    """Raises ConfigError where more is read of the reference than the log-probabilities of a row's own responses."""
    if config.training.reference_cache is None:
        return
    objective = config.objective
    reads_distributions = any(TOKEN_STATISTICS[name] != "policy" for name in objective.token_statistics)
    reasons = [
        (bool(config.adversaries), "an adversary reads the reference's hidden states"),
        (not objective.needs_reference, "nothing reads a reference"),
        (reads_distributions, "the objective reads whole distributions"),
        ("mismatched" in objective.batch_statistics.values(), "the objective reads responses after other rows' prompts"),
        (config.training.sync_reference is not None, "`sync_reference` moves the reference"),
    ]
    if found := [reason for is_so, reason in reasons if is_so]:
        raise ConfigError(f"training.reference_cache: {'; '.join(found)}; remove it")


def check_training(config: RunConfig, models: Models) -> None:
    """Raises ConfigError for something that the loop is asked to do and these models cannot."""
    training = config.training
    if training.sync_reference is not None and models.reference is None:
        reason = "with `lora` the reference is the base model itself" if config.model.lora else "nothing reads a reference"
        raise ConfigError(f"training.sync_reference: there is no reference to move: {reason}; remove it")
    policy = base_model(models.policy)
    if training.router_aux_loss_coef is not None and "output_router_logits" not in signature(policy.forward).parameters:
        raise ConfigError(
            f"training.router_aux_loss_coef: {type(policy).__name__} is no mixture of experts; remove it"
        )


def check_token_budget(config: RunConfig, depends_on_micro_batch: bool) -> None:
    """Raises ConfigError where `max_tokens_per_batch` would change what is computed, and not only how it is divided."""
    if config.training.max_tokens_per_batch is None:
        return
    reasons = ["the objective compares the pairs of a micro-batch with each other"] if depends_on_micro_batch else []
    for plan in config.adversaries:
        if not plan.divergence.needs_critic:
            continue
        if plan.config.means_clock == "micro" or plan.config.schedule == "legacy":
            reasons.append("the critics' means or steps are counted by micro-batches (means_clock, schedule)")
        elif plan.config.means_detach == "policy":
            reasons.append("means_detach: policy needs the whole step in one micro-batch")
        elif plan.config.form == "full":
            reasons.append("form: full needs the whole step in one micro-batch")
    if reasons:
        raise ConfigError(
            f"training.max_tokens_per_batch: {reasons[0]}, and a token budget makes micro-batches of any size; remove it"
        )


def packing_obstacles(config: RunConfig) -> list[str]:
    """What in a run speaks against packed rows, whatever the model."""
    reasons = []
    if config.training.router_aux_loss_coef is not None:
        reasons.append("training.router_aux_loss_coef counts the experts' tokens by rows")
    if any(plan.divergence.needs_critic and not plan.config.masked for plan in config.adversaries):
        reasons.append("adversary.masked: false scores padding, which packed rows do not have")
    return reasons


def _taking_unpaired(config: RunConfig) -> Iterator[str]:
    registry = config.plugins.registry("objective")
    for name in registry:
        try:
            made = registry.create(name, {})
        except ConfigError:
            continue  # it has options without a default: whether it could is not known
        if isinstance(made, Objective) and made.takes_unpaired:
            yield name
