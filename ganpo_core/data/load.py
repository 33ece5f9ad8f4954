"""The `data` section of a run file becomes token pairs and a report of every row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from ganpo_core.data.dataset import PairDataset, TokenPair
from ganpo_core.data.flaws import BAD_IMAGE, Flaw, RowError
from ganpo_core.data.formats import ChatPair, TextPair, parse_row
from ganpo_core.data.overlong import fit
from ganpo_core.data.processor import ImagePairTokenizer
from ganpo_core.data.render import Rendered
from ganpo_core.data.report import DataReport, SourceReport, listing
from ganpo_core.data.sources import NamedSource, named_sources, read_rows
from ganpo_core.data.tokenize import PairTokenizer, TokenizedPair
from ganpo_core.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from ganpo_core.config import DataConfig

MOST_FLAWED = 0.01
"""The largest share of a source's rows that may be flawed: beyond it the file is wrong, not a row."""
CHUNK = 512
"""Rows tokenized together."""


def load_pairs(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    processor: ProcessorMixin | None = None,
    *,
    evaluation: bool = False,
    report: DataReport | None = None,
) -> tuple[PairDataset, DataReport]:
    """The pairs of training, or of evaluation, source after source, and what became of every row.

    `processor` is that of a model that sees: it makes the tokens of prompts with images. A `report` that is given is
    filled, so that it tells of the rows also where they are refused.
    Raises DataError for a source that cannot be read, of which more than 1 % of the rows are flawed, or of which
    nothing is left; and for a chat template under which the prompt is no prefix of the conversation.
    """
    report = DataReport() if report is None else report
    sources = named_sources(config, evaluation=evaluation)
    pair_tokenizer = PairTokenizer(tokenizer) if processor is None else ImagePairTokenizer(processor)

    def all_pairs() -> Iterator[TokenPair]:
        for source in sources:
            counts = report.sources[source.name] = SourceReport()
            yield from _SourceReader(source, pair_tokenizer, config, counts).pairs()

    dataset = PairDataset(all_pairs(), {source.name: source.weight for source in sources})
    if dataset.is_mixed:
        raise DataError(
            "data: some rows are pairs (`chosen`, `rejected`) and some are single responses (`completion`, `label`); "
            "give rows of one kind"
        )
    return dataset, report


class _SourceReader:
    """One pass over one source: rows in, pairs out, everything else counted."""

    def __init__(self, source: NamedSource, tokenizer: PairTokenizer, config: DataConfig, report: SourceReport) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.config = config
        self.report = report
        self._columns: dict[str, None] = {}
        self._first_flaw: tuple[int, RowError] | None = None

    def pairs(self) -> Iterator[TokenPair]:
        """The pairs that stand. Raises DataError, after the last row, where too many do not."""
        rendered = self._rendered()
        while chunk := list(islice(rendered, CHUNK)):
            tokenized = self.tokenizer.tokenize([text for _, text, _ in chunk])
            for (row, _, parsed), whole in zip(chunk, tokenized, strict=True):
                pair = whole if parsed.label is None else whole.single(parsed.label)
                try:
                    pair.check(is_single=parsed.label is not None)
                except RowError as error:
                    self._count(row, error)
                    continue
                if fitted := self._fitted(row, pair):
                    self.report.kept += 1
                    self.report.notes.update(fitted.notes)
                    sides = (fitted.prompt, fitted.chosen, fitted.rejected)
                    yield TokenPair(*sides, self.source.name, row, parsed.preference, fitted.images)
        self._judge()

    def _rendered(self) -> Iterator[tuple[int, Rendered, TextPair | ChatPair]]:
        for row, values in enumerate(read_rows(self.source), start=1):
            self.report.rows = row
            self._columns.update(dict.fromkeys(values))
            try:
                parsed = parse_row(values, self.tokenizer.sees_images)
                parsed = self.tokenizer.with_images(parsed, values, self.source.folder)
                yield row, self.tokenizer.render(parsed, f"{self.source.place}, row {row}"), parsed
            except RowError as error:
                self._count(row, error)
            except RecursionError:
                self._count(row, RowError(Flaw.NESTED_TOO_DEEP, "values in values, deeper than Python can follow"))

    def _count(self, row: int, error: RowError) -> None:
        if error.flaw in BAD_IMAGE and self.config.on_bad_image == "error":
            raise DataError(
                f"{self.source.place}, row {row}: {error.flaw}, {error.detail}. Repair or remove the row, or set "
                "data.on_bad_image: drop."
            ) from error
        self.report.flawed[error.flaw] += 1
        # Tokens are checked a chunk after text, so a later row may be counted before an earlier one.
        if self._first_flaw is None or row < self._first_flaw[0]:
            self._first_flaw = (row, error)

    def _fitted(self, row: int, pair: TokenizedPair) -> TokenizedPair | None:
        """The pair within `max_length`; None where it is dropped."""
        fitted = fit(pair, self.config.max_length, self.config.on_overlong)
        if fitted.dropped is None:
            self.report.cut.update(fitted.cut)
            return fitted.pair
        if self.config.on_overlong == "error":
            prompt, chosen, rejected = len(pair.prompt), len(pair.chosen), len(pair.rejected)
            raise DataError(
                f"{self.source.place}, row {row}: {prompt} prompt tokens with {chosen} chosen and {rejected} rejected "
                f"exceed data.max_length {self.config.max_length}. Raise it, or change data.on_overlong."
            )
        self.report.overlong[fitted.dropped] += 1
        return None

    def _judge(self) -> None:
        report, place = self.report, self.source.place
        if report.rows == 0:
            raise DataError(f"{place} has no rows. Check the path and the split.")
        is_unpaired = "completion" in self._columns and "chosen" not in self._columns
        required = ("prompt", "completion", "label") if is_unpaired else ("chosen", "rejected")
        if missing := [column for column in required if column not in self._columns]:
            names = "prompt, completion and label" if is_unpaired else "prompt (optional), chosen and rejected"
            raise DataError(
                f"{place} has no column {' and no column '.join(missing)}; it has: {', '.join(self._columns)}. "
                f"Rename the columns to {names}."
            )
        if self._first_flaw and (report.kept == 0 or report.flawed.total() > MOST_FLAWED * report.rows):
            row, error = self._first_flaw
            raise DataError(
                f"{place}: {report.flawed.total()} of {report.rows} rows are no preference pairs "
                f"({listing(report.flawed)}), the first is row {row}: {error.flaw}, {error.detail}. At most 1 % of the "
                "rows are dropped as flawed: repair or remove them."
            )
        if report.kept == 0:
            raise DataError(
                f"{place}: none of {report.rows} pairs fits into data.max_length {self.config.max_length} "
                f"({listing(report.overlong)}). Raise data.max_length or change data.on_overlong."
            )
        if not (math.isfinite(self.source.weight) and round(self.source.weight * report.kept) >= 1):
            raise DataError(
                f"{place}: weight {self.source.weight} of {report.kept} pairs is not a single pair per epoch. "
                "Raise the weight or remove the source."
            )
