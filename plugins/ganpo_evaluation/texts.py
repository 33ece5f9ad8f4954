"""Rows of prompts and responses, in AlpacaEval's format and in those of the data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ganpo_core import DataError, Prompt

PROMPT_KEYS = ("instruction", "prompt", "question", "messages")
RESPONSE_KEYS = ("output", "response", "completion")


@dataclass(frozen=True)
class Answer:
    """One response to one prompt, as AlpacaEval writes it."""

    instruction: Prompt
    output: str
    generator: str
    dataset: str | None = None


def read_rows(path: Path, needed: Sequence[str] = ()) -> list[dict[str, object]]:
    """The rows of a JSON list or of a JSONL file. Raises DataError for a file that is missing or holds something else."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    text = path.read_text(encoding="utf-8")
    try:
        # Not splitlines(): JSON strings may hold the line separators of Unicode.
        lines = [line for line in text.split("\n") if line.strip()]
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not a JSON list, nor a JSON object a line: {error}") from error
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {index} is a {type(row).__name__}, not an object")
        missing = [key for key in needed if key not in row]
        if missing:
            raise DataError(f"{path}: row {index} lacks {', '.join(missing)}; it has {', '.join(row)}")
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def read_prompts(path: Path) -> list[tuple[Prompt, str | None]]:
    """Each row's prompt, and the data set that it says it is from."""
    if path.suffix == ".txt":
        return [(line, None) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(prompt_of(row, path, index), _text(row.get("dataset"))) for index, row in enumerate(read_rows(path))]


def read_answers(path: Path) -> list[Answer]:
    """Responses with their prompts, in AlpacaEval's keys or as `prompt` and `response`."""
    answers = []
    for index, row in enumerate(read_rows(path)):
        response = next((row[key] for key in RESPONSE_KEYS if isinstance(row.get(key), str)), None)
        if not isinstance(response, str):
            raise DataError(f"{path}: row {index} has no response under {', '.join(RESPONSE_KEYS)}; it has {', '.join(row)}")
        generator = _text(row.get("generator")) or path.stem
        answers.append(Answer(prompt_of(row, path, index), response, generator, _text(row.get("dataset"))))
    return answers


def write_answers(answers: Sequence[Answer], path: Path) -> None:
    """A JSON list of {instruction, output, generator, dataset}, which `alpaca_eval --model_outputs` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{key: value for key, value in asdict(answer).items() if value is not None} for answer in answers]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def prompt_of(row: Mapping[str, object], path: Path, index: int) -> Prompt:
    """A row's prompt: text, or messages."""
    for key in PROMPT_KEYS:
        value = row.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value and all(isinstance(item, dict) and "role" in item for item in value):
            return value
    raise DataError(f"{path}: row {index} has no prompt under {', '.join(PROMPT_KEYS)}; it has {', '.join(row)}")


def text_of(prompt: Prompt) -> str:
    """A prompt's text; of messages, those of the last user turn."""
    if isinstance(prompt, str):
        return prompt
    said = [str(message["content"]) for message in prompt if message["role"] == "user"]
    if not said:
        raise DataError(f"a prompt of {len(prompt)} messages has none of role 'user'")
    return said[-1]


def as_messages(prompt: Prompt) -> list[dict[str, object]]:
    """A prompt as chat messages."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(message) for message in prompt]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
