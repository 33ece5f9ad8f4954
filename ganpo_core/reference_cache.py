"""Log-probabilities of a frozen reference, computed once and kept: by its weights, and by the tokens of the rows.

A pair's values do not depend on the run, so runs of other seeds, objectives and learning rates find them again.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ganpo_core.data import PairBatch, TokenPair
from ganpo_core.errors import CheckpointError, ConfigError, TrainingError
from ganpo_core.folders import find_flaw, share_folder
from ganpo_core.run import Run
from ganpo_core.step import reference_pass
from ganpo_core.weights import fingerprint

PART_ROWS = 1024
"""Rows of a part: what is lost at most when a process dies."""
VALUES = "logps.safetensors"
NUM_CHECKED = 4
"""Rows from the disk that are computed again before they are believed."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Nats by which a token's value may differ in another batch, by the computation's type."""


class ReferenceCache:
    """What is known of the rows, and how a batch is given it."""

    def __init__(self, logps: dict[str, Tensor], fingerprint: str | None, tolerance: float) -> None:
        """`logps` are [chosen + rejected tokens], by `row_key`; the rest as in KnownReference."""
        self.logps, self.fingerprint, self.tolerance = logps, fingerprint, tolerance

    def add_to(self, batch: PairBatch, pairs: Sequence[TokenPair]) -> PairBatch:
        """The batch with the reference's log-probabilities of its response tokens."""
        sides: list[list[Tensor]] = [[], []]
        for pair in pairs:
            known = self.logps[row_key(pair)]
            for side, part in zip(sides, torch.split(known, [len(pair.chosen), len(pair.rejected)]), strict=True):
                side.append(part)
        padded_NT = pad_sequence([part for side in sides for part in side], batch_first=True)
        return replace(batch, reference=padded_NT.to(batch.input_ids.device))


def row_key(pair: TokenPair) -> str:
    """A row by its tokens, and by nothing else of where it came from."""
    sides = (pair.prompt, pair.chosen, pair.rejected)
    return sha256(array("i", [*map(len, sides), *(token for side in sides for token in side)]).tobytes()).hexdigest()


def use_reference_cache(run: Run, say: Callable[[str], None]) -> None:
    """Compute what is missing, check some of what is there, and let go of the reference's weights; collective.

    Raises TrainingError where values on the disk are not this reference's, ConfigError for a model that sees, and
    CheckpointError where what was computed cannot be kept or is not found again.
    """
    root = run.config.training.reference_cache
    if root is None:
        return
    if run.models.processor is not None:
        # Two rows with the same words and other images have the same tokens.
        raise ConfigError("training.reference_cache: values are kept by tokens, and this model reads images too; remove it")
    reference, tolerance = fingerprint(run.models, run.sum_over_processes), TOLERANCE[run.models.dtype]
    folder = Path(root) / sha256(f"{reference} {run.models.dtype}".encode()).hexdigest()[:32]
    wanted: dict[str, TokenPair] = {}
    for pairs in (run.pairs, *([] if run.evaluation is None else [run.evaluation])):
        wanted |= {row_key(pair): pair for pair in pairs}
    known = _read(folder, say)
    # Other runs may add parts while the processes of this one read: what one of them lacks is computed by all.
    missing = {key: wanted[key] for key in _lacking_anywhere(run, wanted, known)}
    run.accelerator.wait_for_everyone()  # nobody writes while somebody reads
    kept = [key for key in wanted if key not in missing]
    say(f"reference cache: {len(kept)} of {len(wanted)} rows are in {folder}")
    _check(run, {key: wanted[key] for key in kept[:NUM_CHECKED]}, known, folder, tolerance)
    for part in _compute(run, missing):
        _write(part, folder)
    run.accelerator.wait_for_everyone()
    if missing:
        known |= _read(folder, say)
    if lost := _lacking_anywhere(run, wanted, known):
        raise CheckpointError(
            f"training.reference_cache: {len(lost)} of {len(wanted)} rows are not found again in {folder} after they were "
            "written: processes on other machines write to folders of their own, or somebody deletes parts. Name a folder "
            "that all processes share, and start again"
        )
    run.reference_cache = ReferenceCache({key: known[key] for key in wanted}, reference, tolerance)
    # An adapter's reference is the policy itself: there is nothing to let go.
    if run.models.reference is not None:
        run.models.reference, run.reference_sums = None, None


def _lacking_anywhere(run: Run, wanted: Mapping[str, TokenPair], known: Mapping[str, Tensor]) -> list[str]:
    """The rows that some process does not know: the same on all of them, so that all make equally many passes."""
    lacking = torch.tensor([key not in known for key in wanted], dtype=torch.float64, device=run.models.device)
    found = run.sum_over_processes(lacking).tolist()
    return [key for key, count in zip(wanted, found, strict=True) if count]


def _compute(run: Run, missing: dict[str, TokenPair]) -> Iterator[dict[str, Tensor]]:
    """This process's rows, in parts; every process makes equally many passes, or a sharded model would wait for ever."""
    keys, size = list(missing), run.config.training.per_device_train_batch_size
    groups = [keys[start : start + size] for start in range(0, len(keys), size)]
    world, own, found = run.accelerator.num_processes, run.accelerator.process_index, dict[str, Tensor]()
    for start in range(0, len(groups), world):
        is_surplus = start + own >= len(groups)
        group = groups[0] if is_surplus else groups[start + own]
        computed = _logps(run, [missing[key] for key in group])
        if not is_surplus:
            found |= dict(zip(group, computed, strict=True))
        if len(found) >= PART_ROWS:
            yield found
            found = {}
    if found:
        yield found


def _logps(run: Run, pairs: Sequence[TokenPair]) -> list[Tensor]:
    logps = reference_pass(run, run.collated(pairs)).logps
    assert logps is not None
    chosen_BT, rejected_BT = logps.chosen.logps.cpu(), logps.rejected.logps.cpu()
    return [
        torch.cat([chosen_BT[row, : len(pair.chosen)], rejected_BT[row, : len(pair.rejected)]])
        for row, pair in enumerate(pairs)
    ]


def _check(run: Run, rows: dict[str, TokenPair], known: dict[str, Tensor], folder: Path, tolerance: float) -> None:
    gaps = torch.zeros(1, dtype=torch.float64, device=run.models.device)
    for key, pair in rows.items():
        # Not `>`: a value that is no number is no value of the reference either.
        gaps += (~((_logps(run, [pair])[0] - known[key]).abs().amax() <= tolerance)).to(gaps)
    if float(run.sum_over_processes(gaps)):
        raise TrainingError(
            f"training.reference_cache: values in {folder} are not those of this reference, though its weights have the "
            "same digest: another version of a library computed them, or they were changed. Delete the folder"
        )


def _read(folder: Path, say: Callable[[str], None]) -> dict[str, Tensor]:
    known: dict[str, Tensor] = {}
    for part in sorted(folder.glob("part-*")):
        if part.suffix:
            continue  # of a process that writes, or died while it wrote
        flaw = find_flaw(part, (VALUES,))
        try:
            known |= {} if flaw else load_file(part / VALUES)
        except (OSError, SafetensorError) as error:
            flaw = f"it cannot be read ({error})"
        if flaw:
            say(f"reference cache: {part} is not used: {flaw}; its rows are computed again")
    return known


def _write(part: dict[str, Tensor], folder: Path) -> None:
    """Under a name that says which rows it holds: a part that another run wrote under that name is the same one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"training.reference_cache: {folder} cannot be made: {error}") from error
    size = sum(values.numel() * values.element_size() + 128 for values in part.values())
    name = f"part-{sha256(' '.join(sorted(part)).encode()).hexdigest()[:32]}"
    share_folder(folder / name, lambda aside: save_file(part, aside / VALUES), size, (VALUES,))
