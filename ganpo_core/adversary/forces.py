"""Where the regularizers' graphs and the policy's are cut apart, and where they meet: at the captured hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ganpo_core.adversary.regularizer import Regularizer
from ganpo_core.data import Layout
from ganpo_core.errors import TrainingError
from ganpo_core.types import Source


class LatentForces:
    """One micro-batch's gradients at the captured states, and the single backward pass that carries all of them."""

    def __init__(self, states: Mapping[Source, Tensor], layout: Layout | None) -> None:
        self._states = dict(states)
        self._layout = layout
        self.leaves = {source: state.detach().requires_grad_() for source, state in states.items()}
        """The same values as leaves: extractors and critics read these, and the policy's graph stays out of it."""
        self._injected: dict[Source, Tensor] = {}
        self._parts: list[tuple[Regularizer, dict[Source, Tensor]]] = []

    def rows(self) -> dict[Source, Tensor]:
        """[N, S, H] each: the leaves as the batch's rows. For one regularizer: differentiating it uses them up."""
        return {source: leaf if self._layout is None else self._layout.rows(leaf) for source, leaf in self.leaves.items()}

    def add(self, regularizer: Regularizer, weighted_penalty: Tensor) -> None:
        """Differentiate a penalty down to the captured states. Raises TrainingError where nothing trained is behind."""
        sources = list(self.leaves)
        gradients = torch.autograd.grad(weighted_penalty, list(self.leaves.values()), allow_unused=True)
        found = {
            source: gradient
            for source, gradient in zip(sources, gradients, strict=True)
            if gradient is not None and self._states[source].requires_grad
        }
        if not found:
            raise TrainingError(
                f"{regularizer.prefix}: its latents depend on nothing that is trained, so they can never differ from "
                "the reference's; read a later layer, or train the part of the model that they come from"
            )
        self._parts.append((regularizer, found))
        for source, gradient in found.items():
            force = (gradient * regularizer.scale).to(gradient)
            held = self._injected.get(source)
            self._injected[source] = force if held is None else held + force

    def backward(self, objective: Tensor) -> None:
        """Accumulate the policy's gradients, and tell every regularizer how strong its force is beside the rest."""
        rest: dict[Source, Tensor] = {}

        def watch(source: Source) -> Callable[[Tensor], None]:
            def hook(total: Tensor) -> None:  # sees the sum of what is injected and what flows back from the loss
                rest[source] = self._square(total.detach() - self._injected[source])

            return hook

        hooks = [
            self._states[source].register_hook(watch(source))  # type: ignore[no-untyped-call]
            for source in self._injected
        ]
        roots = [self._states[source] for source in self._injected]
        torch.autograd.backward([objective, *roots], [None, *self._injected.values()])
        for handle in hooks:
            handle.remove()
        for regularizer, forces in self._parts:
            own = torch.stack([self._square(force) for force in forces.values()]).sum()
            regularizer.note_force(own, torch.stack([rest[source] for source in forces]).sum())

    def _square(self, force: Tensor) -> Tensor:
        """Of a force at the distinct states: the copies of a prompt in padded rows are one state, as in shared ones."""
        return force.double().square().sum() if self._layout is None else self._layout.distinct_square(force)
