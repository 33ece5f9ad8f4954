"""The paper's figures as far as they are known, to stand beside ours; a machine-written review of it gave Table 1."""

from __future__ import annotations

from ganpo_evaluation.results import Row

SOURCE_NOTE = "The paper's figures of Table 1 are taken from a machine-written review of the paper."
SLIP_NOTE = (
    "The paper's text gives +1.41 as Gemma's length-controlled gain over DPO; by its table that is the raw gain, and "
    "the length-controlled one is 1.90."
)


def _row(model: str, method: str, win: float, controlled: float, length: int) -> Row:
    return {"model": f"{model} {method}", "win rate": win, "LC win rate": controlled, "length": length}


TABLE_1: tuple[Row, ...] = (
    _row("Gemma2-2B-it", "DPO", 22.76, 27.79, 1668),
    _row("Gemma2-2B-it", "GANPO (DPO)", 24.17, 29.69, 1664),
    _row("Gemma2-2B-it", "SimPO", 30.66, 36.03, 1740),
    _row("Gemma2-2B-it", "GANPO (SimPO)", 31.37, 36.74, 1745),
    _row("Llama-3-8B-Instruct", "DPO", 33.90, 32.34, 2041),
    _row("Llama-3-8B-Instruct", "GANPO (DPO)", 35.23, 33.87, 2043),
    _row("Llama-3-8B-Instruct", "SimPO", 44.09, 48.31, 1836),
    _row("Llama-3-8B-Instruct", "GANPO (SimPO)", 46.11, 50.48, 1834),
)
FIGURE_4: tuple[Row, ...] = (
    {"judge": "discriminator", "T": 1.5, "pearson": 0.59},
    {"judge": "discriminator", "T": 2.0, "pearson": 0.52},
    {"judge": "reward model", "T": 1.5, "pearson": 0.14},
    {"judge": "reward model", "T": 2.0, "pearson": -0.50},
)
