"""Latent regularizers: critics with their optimizer, schedule and running means, or direct distances."""

from ganpo_core.adversary.build import build_regularizers
from ganpo_core.adversary.critic import Critic
from ganpo_core.adversary.forces import LatentForces
from ganpo_core.adversary.game import CriticGame
from ganpo_core.adversary.health import STEEPEST, Health
from ganpo_core.adversary.regularizer import DirectDistance, LatentBatch, Regularizer, Totals

__all__ = [
    "STEEPEST",
    "Critic",
    "CriticGame",
    "DirectDistance",
    "Health",
    "LatentBatch",
    "LatentForces",
    "Regularizer",
    "Totals",
    "build_regularizers",
]
