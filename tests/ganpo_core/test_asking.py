"""Calls into a component: what it raises, and what it does to its arguments, is said in words."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass

import pytest
import torch

from ganpo_core import ConfigError, Divergence, Latents, PluginError
from ganpo_core.asking import ask, ask_scalar
from ganpo_core.interrupts import Interrupts
from ganpo_core.registry import KINDS, Provider, Registry


@dataclass(frozen=True)
class Odd(Divergence):
    """Does what its option says."""

    how: str = "well"

    def distance(self, policy: Latents, reference: Latents) -> torch.Tensor:
        """The mean, or a fault."""
        if self.how == "raises":
            raise ValueError("boom")
        if self.how == "leaves":
            raise SystemExit(0)
        if self.how == "cancels":
            raise asyncio.CancelledError
        if self.how == "interrupts":
            raise KeyboardInterrupt
        if self.how == "replaces":
            object.__setattr__(policy, "states", policy.states * 2)
        if self.how == "counts threads":
            torch.set_num_threads(torch.get_num_threads() + 1)
        if self.how == "stops learning":
            torch.set_grad_enabled(False)
        if self.how == "halves":
            torch.set_default_dtype(torch.bfloat16)
        if self.how == "refuses":
            raise ConfigError("its own words")
        if self.how == "writes":
            reference.states.mul_(2)
        if self.how == "writes into a view":
            policy.states[0].zero_()
        if self.how == "list":
            return [1.0]  # type: ignore[return-value]
        return policy.states if self.how == "many" else policy.states.mean()


def made(how: str) -> Odd:
    registry = Registry(next(kind for kind in KINDS if kind.name == "divergence"))
    registry.add("odd", Odd, Provider("acme", "acme", "1.2"))
    found = registry.create("odd", {"how": how})
    assert isinstance(found, Odd)
    return found


def latents() -> Latents:
    return Latents(torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))


def refusal(how: str) -> str:
    with pytest.raises(PluginError) as caught:
        ask_scalar(made(how), "distance", latents(), latents())
    return str(caught.value)


def test_an_answer_comes_back() -> None:
    assert float(ask_scalar(made("well"), "distance", latents(), latents())) == 1.0


def test_what_is_raised_names_plugin_version_method_and_line() -> None:
    assert refusal("raises").startswith("plugin 'acme 1.2': Odd.distance raised ValueError: boom (test_asking.py:")


def test_to_leave_the_process_is_a_mistake() -> None:
    assert refusal("leaves").startswith("plugin 'acme 1.2': Odd.distance tried to leave the process (SystemExit: 0)")


def test_whatever_a_plugin_raises_is_its_mistake() -> None:
    assert refusal("cancels").startswith("plugin 'acme 1.2': Odd.distance raised CancelledError (test_asking.py:")


def test_a_keyboard_interrupt_is_the_users_unless_signals_are_caught() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            ask(made("interrupts"), "distance", latents(), latents())
        with Interrupts():
            assert refusal("interrupts").startswith("plugin 'acme 1.2': Odd.distance raised KeyboardInterrupt")
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("how", "switch"),
    [("counts threads", "number of threads"), ("stops learning", "grad mode"), ("halves", "default dtype")],
)
def test_a_setting_of_torch_that_is_left_changed_is_a_mistake(how: str, switch: str) -> None:
    threads = torch.get_num_threads()
    try:
        assert refusal(how).startswith(f"plugin 'acme 1.2': Odd.distance left torch's {switch} changed, from ")
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("how", "argument"),
    [("writes", "reference.states"), ("writes into a view", "policy.states"), ("replaces", "policy.states")],
)
def test_a_change_of_an_argument_names_the_argument(how: str, argument: str) -> None:
    assert refusal(how) == (
        f"plugin 'acme 1.2': Odd.distance changed its argument {argument} in place; others read it too: make a new tensor"
    )


@pytest.mark.parametrize(("how", "found"), [("list", "list"), ("many", r"a tensor of shape \(2, 3, 4\)")])
def test_what_is_no_number_is_described(how: str, found: str) -> None:
    with pytest.raises(PluginError, match=rf"Odd\.distance returned {found}; expected a scalar tensor"):
        ask_scalar(made(how), "distance", latents(), latents())


def test_what_a_plugin_says_to_its_user_is_left_as_it_is() -> None:
    with pytest.raises(ConfigError, match=r"^its own words$"):
        ask(made("refuses"), "distance", latents(), latents())


def test_a_component_that_was_made_by_hand_has_no_plugin_to_name() -> None:
    with pytest.raises(PluginError, match=r"^Odd\.distance raised"):
        ask(Odd("raises"), "distance", latents(), latents())
