"""Pairs of text or messages become token ids, the prompt's a prefix of both sides.

The prompt and each whole side are tokenized, and a response is what the side has beyond the prompt. Where the
tokenizer merges characters across that boundary, as byte-pair encodings do, the text beyond the prompt is tokenized
by itself instead, for both sides of the row: such are the tokens of a model that continues the prompt. These rows are
counted as `boundary_merged`. A chat template whose rendered prompt is no prefix of the rendered conversation is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ganpo_core.data.flaws import Flaw, RowError
from ganpo_core.data.formats import ChatPair, TextPair
from ganpo_core.data.render import Rendered, render_chat, render_text
from ganpo_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from ganpo_core.data.formats import Row
    from ganpo_core.data.images import PromptImages

Ids = list[int]


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids of a prompt and its two responses."""

    prompt: Ids
    chosen: Ids
    rejected: Ids
    notes: tuple[str, ...] = ()
    images: PromptImages | None = None
    """The prompt's, perhaps none; None where the model reads text alone."""

    def single(self, label: bool) -> TokenizedPair:
        """One response of unpaired data: on the chosen side where it is desirable, else on the other."""
        return replace(self, chosen=self.chosen if label else [], rejected=[] if label else self.rejected)

    def check(self, is_single: bool = False) -> None:
        """Raises RowError where tokenizing left a side empty or made both responses the same."""
        if not self.prompt:
            raise RowError(Flaw.EMPTY_PROMPT, "the prompt has no tokens")
        if is_single and (self.chosen or self.rejected):
            return
        if not self.chosen or not self.rejected:
            raise RowError(Flaw.EMPTY_RESPONSE, "a response has no tokens")
        if self.chosen == self.rejected:
            raise RowError(Flaw.IDENTICAL_RESPONSES, "both responses have the same tokens")


class PairTokenizer:
    """A tokenizer, with what must be known of it to tokenize preference pairs."""

    sees_images = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.special_texts = tuple(
            sorted(
                {str(token) for token in tokenizer.all_special_tokens}
                | {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special},
                key=len,
                reverse=True,
            )
        )
        whole, plain = self._plain_ids(["a"], special=True)[0], self._plain_ids(["a"], special=False)[0]
        self.adds_eos = len(whole) > len(plain) and whole[-1] == tokenizer.eos_token_id

    def with_images(self, pair: TextPair | ChatPair, row: Row, folder: Path | None) -> TextPair | ChatPair:
        """The pair with the images of its row, where the model sees; others ignore the columns."""
        return pair

    def render(self, pair: TextPair | ChatPair, where: str) -> Rendered:
        """The text to tokenize. Raises RowError for a flawed row, DataError for a tokenizer that cannot serve it."""
        if isinstance(pair, ChatPair):
            return render_chat(self.tokenizer, pair, self.special_texts, where)
        if self.tokenizer.eos_token_id is None:
            raise DataError(f"{where}: the tokenizer has no end-of-sequence token to end a response; set `eos_token`.")
        return render_text(pair, self.special_texts)

    def tokenize(self, batch: Sequence[Rendered]) -> list[TokenizedPair]:
        """The token ids of rendered pairs, in order; many at a time, because fast tokenizers work in parallel."""
        if all(rendered.tokenized for rendered in batch):
            return [rendered.tokenized for rendered in batch if rendered.tokenized]
        texts = [text for rendered in batch for text in (rendered.prompt, rendered.chosen, rendered.rejected)]
        special = [not rendered.is_chat for rendered in batch for _ in range(3)]
        ids = iter(self._ids(texts, special))
        whole = [(next(ids), next(ids), next(ids)) for _ in batch]
        return [self.split(rendered, *sides) for rendered, sides in zip(batch, whole, strict=True)]

    def split(self, rendered: Rendered, prompt: Ids, chosen: Ids, rejected: Ids) -> TokenizedPair:
        """The pair of which these are the ids of the prompt and of both whole sides."""
        length, notes = len(prompt), list(rendered.notes)
        if chosen[:length] == prompt == rejected[:length]:
            chosen, rejected = chosen[length:], rejected[length:]
        else:
            notes.append("boundary_merged")
            texts = [side[len(rendered.prompt) :] for side in (rendered.chosen, rendered.rejected)]
            chosen, rejected = self._plain_ids(texts, special=False)
        if not rendered.is_chat:
            chosen, rejected = self._ended(chosen), self._ended(rejected)
            bos = self.tokenizer.bos_token_id
            if bos is not None and prompt[:2] == [bos, bos]:
                # The text brought its own: the tokenizer's is one too many.
                prompt = prompt[1:]
                notes.append("double_bos")
        return TokenizedPair(prompt, chosen, rejected, tuple(notes))

    def _ended(self, response: Ids) -> Ids:
        eos = self.tokenizer.eos_token_id
        return [*response, eos] if response and response[-1] != eos else response

    def _ids(self, texts: Sequence[str], special: Sequence[bool]) -> Iterator[Ids]:
        """Ids of each text, with the tokenizer's own special tokens where `special`, an added final EOS left out."""
        found: dict[bool, Iterator[Ids]] = {}
        for kind in (True, False):
            of_kind = [text for text, is_special in zip(texts, special, strict=True) if is_special == kind]
            found[kind] = iter(self._plain_ids(of_kind, kind) if of_kind else [])
        for kind in special:
            ids = next(found[kind])
            yield ids[:-1] if kind and self.adds_eos else ids

    def _plain_ids(self, texts: Sequence[str], special: bool) -> list[Ids]:
        encoded = self.tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]
