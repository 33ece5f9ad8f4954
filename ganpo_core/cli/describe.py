"""`ganpo describe`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ganpo_core.components import Component, Discriminator


def describe(
    kind: Annotated[str, typer.Argument(help="objective, latent_extractor, divergence, discriminator or judge")],
    name: Annotated[str, typer.Argument(help="As in `use:`.")],
    options: Annotated[list[str] | None, typer.Argument(help="key=value, such as num_layers=4")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="Enable a third-party plugin first.")] = None,
    latent_dim: Annotated[int | None, typer.Option(min=1, help="Of a discriminator: width of the latents.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a row.")] = 1024,
    policy_parameters: Annotated[float | None, typer.Option(min=1, help="Of the policy, such as 2.61e9.")] = None,
) -> None:
    """Print a component's documentation, options, provider and source file; of a discriminator also size and work."""
    from ganpo_core.components import Discriminator
    from ganpo_core.config.document import split_override
    from ganpo_core.errors import ConfigError
    from ganpo_core.plugins import load_plugins
    from ganpo_core.registry import source_file
    from ganpo_core.schema import describe_options

    loaded = load_plugins(plugin or ())
    registry = loaded.registry(kind)
    entry = registry[name]
    print(f"{registry.kind.name} {name}\n")
    print(inspect.getdoc(entry.component) or "")
    print("\nOptions")
    described = describe_options(entry.component)
    if not described:
        print("  none")
    for option in described:
        print(f"  {option.name}: {option.type} = {option.default}")
        print(f"      {option.text}")
    given = dict(map(split_override, options or ()))
    try:
        made = registry.create(name, {**entry.component.example, **given})
    except ConfigError:
        if given:
            raise
        made = None  # it has options without a default
    if made is not None:
        print()
        for title, text in _traits(made).items():
            print(f"{title:<11} {text}")
    for other, who in entry.component.known_as.items():
        print(f"\nAlso called '{other}' ({who.replace(': ', ', with ', 1)})")
    if latent_dim is not None:
        if not isinstance(made, Discriminator):
            raise ConfigError(f"--latent-dim: a size is told of discriminators; '{name}' is of kind {kind}")
        print()
        for line in _size(made, latent_dim, tokens, policy_parameters):
            print(line)
    print(f"\nProvided by {entry.provider} ({entry.provider.distribution or 'a file'})")
    print(f"Source      {source_file(entry.component)}")


def _traits(component: Component) -> Mapping[str, str]:
    """What the class declares beside its options, in words."""
    from ganpo_core.components import Discriminator, Divergence, Objective
    from ganpo_core.docstrings import needs_of

    if isinstance(component, Objective):
        return {"Needs": "; ".join(needs_of(component))}
    if isinstance(component, Discriminator):
        return {"Lipschitz": "1-Lipschitz by construction" if component.lipschitz else "not bounded by construction"}
    if not isinstance(component, Divergence):
        return {}
    if not component.needs_critic:
        return {"Needs": "latents alone"}
    low, high = component.estimate_range
    compared = {"none": "nothing", "group_mean": "the mean of the other group", "pairwise": "the other row of its pair"}
    return {
        "Needs": "latents and a discriminator" + (", 1-Lipschitz" if component.needs_lipschitz else ""),
        "Estimate": f"between {low:.4g} and {high:.4g} for the best critic",
        "Compares": f"a score with {compared[component.baseline]}",
        "Forms": ", ".join(component.forms) + "; paired_score, anchor_score, feature_matching",
        "Cross term": f"weight {component.cross_weight:g}" if component.allows_cross else "refused: it would cancel the policy",
    }


def _size(
    discriminator: Discriminator, latent_dim: int, tokens: int, policy_parameters: float | None
) -> Iterator[str]:
    """Parameters, and the work of both critics beside plain DPO, counted on the critic's own code."""
    from ganpo_core.plan import count_parameters, critic_flops_per_token, critic_overhead

    yield f"Parameters  {count_parameters(discriminator, latent_dim):,} for latents of width {latent_dim:,}"
    flops = critic_flops_per_token(discriminator, latent_dim, tokens)
    yield f"Work        {flops.forward / 1e6:.1f} MFLOP forward for each token of a row of {tokens:,}"
    if policy_parameters is None:
        return
    share = flops.forward / (2 * policy_parameters)
    yield f"            {share:.2%} of a policy of {policy_parameters:,.0f} parameters"
    plain, checkpointed = (critic_overhead(flops, policy_parameters, checkpointing=on) for on in (False, True))
    yield f"Overhead    {plain:.2%} of a DPO step (policy forward and backward, reference forward)"
    yield f"            {checkpointed:.2%} with gradient checkpointing"
