"""Settings that torch keeps for the whole process: a plugin that leaves one changed would change the run without a word."""

from __future__ import annotations

from collections.abc import Mapping

from ganpo_core.errors import PluginError


def torch_switches() -> dict[str, object]:
    """The settings that decide what the next operations compute, by what torch calls them."""
    import torch  # not above: commands that list plugins do without it

    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")),
        "number of threads": torch.get_num_threads(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def check_switches(before: Mapping[str, object], who: str) -> None:
    """Raises PluginError where `who` has left a setting other than it was `before`."""
    for name, value in torch_switches().items():
        if value != before[name]:
            raise PluginError(
                f"{who} left torch's {name} changed, from {before[name]} to {value}: everything after it would be computed "
                "with it. Change it within a `with` block, or put it back"
            )
