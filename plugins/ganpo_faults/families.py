"""Every family of faults, in the order of the table. To add one: a file beside this with a `FAMILY`, and its name here."""

from __future__ import annotations

from ganpo_faults import (
    damage,
    disks,
    files,
    kills,
    numbers,
    plugin_faults,
    processes,
    rows,
    same,
    secrets,
    settings,
    signals,
    soak,
    trust,
    typos,
)
from ganpo_faults.trial import Family

FAMILIES: tuple[Family, ...] = (
    kills.ALONE,
    kills.TOGETHER,
    signals.FAMILY,
    damage.FAMILY,
    numbers.FAMILY,
    disks.FAMILY,
    soak.FAMILY,
    same.FAMILY,
    typos.FAMILY,
    settings.FAMILY,
    rows.FAMILY,
    files.FAMILY,
    plugin_faults.FAMILY,
    trust.FAMILY,
    secrets.FAMILY,
    processes.FAMILY,
)
