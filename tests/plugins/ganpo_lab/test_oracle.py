"""The oracle as a judge."""

from __future__ import annotations

import pytest

import ganpo_core
from ganpo_core.testing import check_judge


def test_the_oracle_reads_recordworlds_prompts_and_refuses_others() -> None:
    judge = ganpo_core.component("judge", "lab_oracle")
    assert isinstance(judge, ganpo_core.Judge)
    check_judge(judge)
    # k1 under v2 (even): 3 * 1 + 0 = v3; an extra key costs a third of a half.
    found = judge.build()(["<bos> k1 v2 <sep>"] * 3, ["{ k1 : v3 }", "{ k1 : v3 , k0 : v0 } <eos>", "{ k1 v3"])
    assert found == pytest.approx([3.0, 3.0 - 0.5 / 3, 0.0])
    with pytest.raises(ganpo_core.DataError, match="is no prompt of RecordWorld"):
        judge.build()(["hello"], ["x"])
