"""Presets: named bundles over the four adversarial sections. They set options, and name no component."""

from __future__ import annotations

from collections.abc import Mapping

# arXiv 2601.22083, equations 11 to 20: minimax, means from 0, the critics at half the policy's learning rate.
_PAPER: Mapping[str, Mapping[str, object]] = {
    "latents": {"positions": "all"},
    "discriminator": {"dropout": 0.1},
    "adversary": {
        "form": "minimax",
        "reduction": "sum",
        "critic_scale": 1.0,
        "means": "all",
        "means_start": "zero",
        "means_decay": 0.9,
        "means_order": "update_then_use",
        "schedule": "alternating",
        "dropout": "critic",
        "learning_rate_ratio": 0.5,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "max_grad_norm": None,
        "weight_warmup_ratio": 0.0,
    },
}

PRESETS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    # This project's recommendation: the policy's force vanishes where it equals the reference, and cannot run away.
    "ganpo": {
        "discriminator": {"dropout": 0.0},
        "adversary": {
            "form": "feature_matching",
            "reduction": "mean",
            "critic_scale": 0.25,
            "means": "all",
            "means_start": "first",
            "means_decay": 0.9,
            "means_order": "use_then_update",
            "schedule": "simultaneous",
            "dropout": "both",
            "learning_rate": 5e-5,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_ratio": 0.1,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "weight_warmup_ratio": 0.1,
        },
    },
    "paper": _PAPER,
    # The listing of Algorithm 1 keeps running means of the own anchors alone.
    "paper_alg1": {**_PAPER, "adversary": {**_PAPER["adversary"], "means": "anchors"}},
    # The authors' released trainer, its oddities included; adversary/official.py has its step rule.
    "official": {
        "latents": {"positions": "all"},
        "discriminator": {"dropout": 0.1, "overlong": "keep_first", "num_layers": 2},
        "adversary": {
            **_PAPER["adversary"],
            "form": "non_saturating",
            "reduction": "mean",
            "critic_scale": 0.25,
            "means_start": "first",
            "means_clock": "micro",
            "means_reduce": "local",
            "schedule": "legacy",
            "masked": False,
            "spectral_norm": "forward",
            "warmup_ratio": 0.0,
            "weight_decay": 0.01,
        },
    },
}

EXCLUSIVE = (("learning_rate", "learning_rate_ratio"),)
"""Options of which a file gives one: writing either silences the preset's other."""
