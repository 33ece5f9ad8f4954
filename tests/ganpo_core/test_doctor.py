"""The checks pass on a healthy model, and each one finds the illness that it is for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ganpo_core.assemble import assemble
from ganpo_core.cli.main import main
from ganpo_core.config import load_run
from ganpo_core.doctor import CHECKS, Finding, examine
from ganpo_core.run import Run

MakeRun = Callable[..., dict[str, Any]]


def made(run_file: dict[str, Any]) -> Run:
    return assemble(load_run(run_file), Accelerator(cpu=True))


def failures(run: Run) -> list[Finding]:
    return [finding for finding in examine(run) if not finding.ok]


def test_a_healthy_model_passes_every_check(tiny_run: MakeRun) -> None:
    findings = list(examine(made(tiny_run())))
    assert [finding.ok for finding in findings] == [True] * len(CHECKS)
    assert findings[0].line() == "ok      vocabulary       28 tokens known, 28 embedded, 28 predicted, 27 the largest of the data"


def test_soft_capped_logits_are_recognised(tiny_run: MakeRun, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=28,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=4,
        final_logit_softcapping=2.0,
        initializer_range=0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "gemma")
    run = made(tiny_run(model={"path": str(tmp_path / "gemma"), "attention": "eager"}))
    found = {finding.name: finding for finding in examine(run)}
    assert all(finding.ok for finding in found.values()), [finding.line() for finding in found.values()]
    assert "the head, capped at 2, on layer -1" in found["last layer"].said


def test_a_head_that_does_more_is_found(tiny_run: MakeRun) -> None:
    run = made(tiny_run())

    def scaled(module: nn.Module, inputs: Any, output: Any) -> Any:
        output.logits = output.logits * 2
        return output

    run.models.policy.register_forward_hook(scaled)
    found = {finding.name: finding for finding in failures(run)}
    assert set(found) == {"last layer", "layouts"}
    assert found["last layer"].line().startswith("FAILED  last layer       the head on layer -1 is within ")


def test_a_pass_that_is_random_is_found(tiny_run: MakeRun) -> None:
    run = made(tiny_run())
    run.models.policy.get_input_embeddings().register_forward_hook(  # type: ignore[operator]
        lambda module, inputs, output: output + 0.1 * torch.randn_like(output)
    )
    assert {"determinism", "same start"} <= {finding.name for finding in failures(run)}


def test_a_model_that_reads_padding_is_found(tiny_run: MakeRun) -> None:
    """A recurrence that ignores the mask carries what stands before a row into it, and nothing of what follows it."""
    run = made(tiny_run())

    def recurrent(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + 0.5 * output.cumsum(1)

    for model in (run.models.policy, run.models.reference):
        assert model is not None
        model.get_input_embeddings().register_forward_hook(recurrent)  # type: ignore[operator]
    assert [finding.name for finding in failures(run)] == ["left padding", "layouts"]


def test_a_model_that_cannot_be_trained_is_found(tiny_run: MakeRun) -> None:
    run = made(tiny_run())
    with torch.no_grad():
        run.models.policy.get_output_embeddings().weight[3] = float("inf")  # type: ignore[operator]
    found = {finding.name: finding for finding in failures(run)}
    assert "one step" in found


def test_the_command_prints_a_line_a_check_and_its_status(
    tiny_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tiny_run()), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["ganpo", "doctor", str(path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["ok"] * len(CHECKS)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("ganpo_core.doctor.CHECKS", (lambda patient: Finding("always", False, "no", "rest"),))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert capsys.readouterr().out == "FAILED  always           no; rest\n"
