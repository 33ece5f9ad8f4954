"""Pairs as people read them: what is prompt, what is trained on, and which tokens the tokenizer added."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group
from rich.rule import Rule
from rich.text import Text

from ganpo_core.data.dataset import PairDataset, TokenPair

if TYPE_CHECKING:
    from rich.console import RenderableType
    from transformers import PreTrainedTokenizerBase

STYLES = {"prompt": "cyan", "chosen": "green", "rejected": "red"}


def render_pairs(dataset: PairDataset, tokenizer: PreTrainedTokenizerBase, count: int) -> RenderableType:
    """The first `count` pairs; each part is marked in words as well as by its colour."""
    parts: list[RenderableType] = []
    for pair in dataset[:count]:
        parts += [Rule(f"{pair.source}, row {pair.row}", characters="-"), *_render(pair, tokenizer), Text()]
    return Group(*parts)


def _render(pair: TokenPair, tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    return [
        _part("prompt", pair.prompt, tokenizer, None if pair.images is None else pair.images.image_token_id),
        _part("chosen", pair.chosen, tokenizer),
        _mask(pair, pair.chosen, tokenizer),
        _part("rejected", pair.rejected, tokenizer),
        _mask(pair, pair.rejected, tokenizer),
    ]


def _part(name: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, image: int | None = None) -> Text:
    """`[chosen, 3 tokens] text`, special tokens included; the tokens of an image once, with their number."""
    text = Text(f"[{name}, {len(ids)} tokens] ", style="bold")
    said = ""
    for is_image, run in groupby(ids, key=lambda token: token == image):
        some = list(run)
        said += str(tokenizer.decode(some[:1] if is_image else some, skip_special_tokens=False))
        said += f" x {len(some)} " if is_image else ""
    return text.append(said, style=f"not bold {STYLES[name]}")


def _mask(pair: TokenPair, response: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Text:
    """`mask 0 x 4, 1 x 3` over the row: 1 on the tokens whose log-probability counts; and the BOS tokens in it."""
    bos = tokenizer.bos_token_id
    num_bos = [*pair.prompt, *response].count(bos) if bos is not None else 0
    length = len(pair.prompt) + len(response)
    text = Text(f"  mask 0 x {len(pair.prompt)}, 1 x {len(response)}; {length} tokens, {num_bos} BOS", style="dim")
    return text.append(" (more than one)", style="not dim bold yellow") if num_bos > 1 else text
