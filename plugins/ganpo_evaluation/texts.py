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


def read_text(path: Path) -> str:
    """A file's text, without a byte order mark. Raises DataError where it cannot be read, or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: a folder; give a file in it") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise DataError(f"{path}: not UTF-8 ({where}); convert it, as `iconv -t UTF-8` does") from error


def read_rows(path: Path, needed: Sequence[str] = ()) -> list[dict[str, object]]:
    """The rows of a JSON list or of a JSONL file. Raises DataError for a file that is missing or holds something else."""
    text = read_text(path)
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
        lines = [line for line in read_text(path).split("\n") if line.strip()]
        if not lines:
            raise DataError(f"{path}: no lines")
        return [(line, None) for line in lines]
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
    said = [_said(message.get("content")) for message in prompt if message["role"] == "user"]
    if not said:
        raise DataError(f"a prompt of {len(prompt)} messages has none of role 'user'")
    return said[-1]


def plain_text(prompt: Prompt) -> str:
    """A prompt's text for a tokenizer without a chat template. Raises DataError for a conversation, which needs one."""
    if not isinstance(prompt, str) and len(prompt) > 1:
        raise DataError(
            f"a prompt is a conversation of {len(prompt)} messages, and the tokenizer has no chat template. Add a "
            "chat_template.jinja beside it, or give prompts of plain text"
        )
    return text_of(prompt)


def prompt_key(prompt: Prompt) -> str:
    """What two rows with the same prompt have in common: one user message is its text, and outer blanks do not count."""
    if isinstance(prompt, str) or (len(prompt) == 1 and prompt[0]["role"] == "user"):
        return "\n".join(text_of(prompt).strip().splitlines())
    return json.dumps([[message["role"], _said(message.get("content")).strip()] for message in prompt])


def names_apart(names: Sequence[str], details: Sequence[str]) -> list[str]:
    """Each name, with its detail behind it where another is called the same."""
    return [name if names.count(name) == 1 else f"{name} ({detail})" for name, detail in zip(names, details, strict=True)]


def short_paths(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path: as many as it takes to tell them apart."""
    whole = [path.resolve() for path in paths]
    depth = 1
    while len({path.parts[-depth:] for path in whole}) < len(set(whole)):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in whole]


def as_messages(prompt: Prompt) -> list[dict[str, object]]:
    """A prompt as chat messages."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(message) for message in prompt]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _said(content: object) -> str:
    """A message's content, text or parts, as text."""
    # Naming the commands must not import the data code, which brings numpy.
    from ganpo_core.data.messages import text_of as content_text

    return content_text(content)
