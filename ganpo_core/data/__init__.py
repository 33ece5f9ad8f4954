"""Rows of any accepted format become token pairs, and token pairs become padded batches.

Reading order: sources and files (rows) → formats and messages (pairs) → render and tokenize (token ids) → overlong →
dataset and report → order → budget → batch and layout. `load` runs them for the `data` section of a run file.
"""

from ganpo_core.data.batch import PairBatch, collate
from ganpo_core.data.budget import group_by_tokens, num_tokens, split_groups
from ganpo_core.data.dataset import PairDataset, TokenPair
from ganpo_core.data.inspect import render_pairs
from ganpo_core.data.layout import Layout, Packing, Segment
from ganpo_core.data.load import load_pairs
from ganpo_core.data.order import PairOrder
from ganpo_core.data.report import DataReport, SourceReport

__all__ = [
    "DataReport",
    "Layout",
    "Packing",
    "PairBatch",
    "PairDataset",
    "PairOrder",
    "Segment",
    "SourceReport",
    "TokenPair",
    "collate",
    "group_by_tokens",
    "load_pairs",
    "num_tokens",
    "render_pairs",
    "split_groups",
]
