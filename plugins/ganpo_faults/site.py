"""Where faults are staged: a tiny random model, a few pairs, and processes that run `ganpo` on them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

WORDS = tuple(f"w{index}" for index in range(24))
GAME: Mapping[str, Any] = {
    "latents": {"use": "hidden_state"},
    "divergence": {"use": "ragan"},
    "discriminator": {"use": "transformer", "hidden_dim": 8, "num_heads": 2, "num_layers": 1, "max_positions": 32},
    "adversary": {"preset": "paper"},
}
"""The sections that put two critics beside the policy."""


@dataclass(frozen=True)
class Process:
    """A run of `ganpo` that the server started."""

    server: Server
    pid: int
    log: Path

    def wait(self, timeout: float = 120.0) -> int | None:
        """The exit code, minus the signal that ended it, or None if it still runs after `timeout` seconds."""
        code: int | None = self.server.ask(do="wait", pid=self.pid, timeout=timeout)
        return code

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def output(self) -> str:
        """Everything it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class Server:
    """A process that has imported torch and forks runs of `ganpo`."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "ganpo_faults.server"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **request: Any) -> Any:
        """The server's answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the server of runs ended; its error is above")
        return json.loads(answer)

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass
class Site:
    """A folder to break things in. Use as a context: leaving it ends the server."""

    folder: Path
    seed: int = 0
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.random = random.Random(self.seed)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        if "server" in self.__dict__:
            self.server.close()

    @cached_property
    def server(self) -> Server:
        """Started when first used."""
        return Server()

    @cached_property
    def model(self) -> Path:
        """A random two-layer Llama of width 16 with dropout, and a tokenizer of words."""
        return write_model(self.folder / "model")

    @cached_property
    def pairs(self) -> Path:
        """48 pairs of random words, of ragged lengths."""
        return write_pairs(self.folder / "pairs.jsonl", 48, seed=3)

    def run_file(self, name: str, **sections: Any) -> Path:
        """Write `NAME.yaml`, a run of the tiny model into the folder `NAME`; sections replace or join the defaults."""
        training = {"learning_rate": 1e-3, "max_steps": 8, "per_device_train_batch_size": 4, "logging_steps": 3}
        run = {
            "model": {"path": str(self.model)},
            "data": {"path": str(self.pairs)},
            "objective": {"use": "dpo"},
            "output_dir": str(self.folder / name),
            **sections,
            "training": {**training, **sections.get("training", {})},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(run, sort_keys=False), encoding="utf-8")
        return path

    def start(
        self,
        *arguments: object,
        log: str = "run.log",
        environment: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> Process:
        """Start `ganpo ARGUMENTS` in a process of its own; `limits` are names of the `resource` module."""
        path = self.folder / log
        words = [str(argument) for argument in arguments]
        pid: int = self.server.ask(
            do="start",
            arguments=words,
            environment=dict(environment or {}),
            output=str(path),
            limits=dict(limits or {}),
        )
        return Process(self.server, pid, path)

    def ganpo(self, *arguments: object, log: str = "run.log", timeout: float = 120.0) -> tuple[int | None, str]:
        """Run `ganpo ARGUMENTS` to its end: its exit code and what it printed this time."""
        path = self.folder / log
        before = path.stat().st_size if path.exists() else 0
        code = self.start(*arguments, log=log).wait(timeout)
        return code, path.read_bytes()[before:].decode("utf-8", errors="replace")


def write_pairs(path: Path, count: int, seed: int, words: Sequence[str] = WORDS) -> Path:
    """Preference pairs of random words."""
    draw = random.Random(seed)

    def text(low: int, high: int) -> str:
        return " ".join(draw.choice(words) for _ in range(draw.randint(low, high)))

    rows = [
        {"prompt": f"<bos> {text(1, 5)}", "chosen": f" {text(2, 9)}", "rejected": f" {text(1, 7)}"} for _ in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_model(folder: Path) -> Path:
    """A random model, its attention dropping out, so that a resumed run must restore the generators too."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder
