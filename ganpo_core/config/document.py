"""What a user wrote, and where: a run file or a mapping, with overrides on top."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ganpo_core.config.parse import MAX_CHARACTERS, Parser
from ganpo_core.errors import ConfigError


@dataclass
class Document:
    """The mapping of a run file; `lines` and `origin` tell where a dotted path was written."""

    data: dict[str, object]
    name: str = "the run"
    lines: dict[str, int] = field(default_factory=dict)
    overridden: set[str] = field(default_factory=set)

    def get(self, path: str) -> object:
        """The value at a dotted path such as `adversaries.0.weight`; None where nothing is written."""
        return find(self.data, path)[1]

    def origin(self, path: str) -> str:
        """`run.yaml:7` or `command line` for the nearest written key at or above `path`."""
        while path:
            if path in self.overridden:
                return "command line"
            if path in self.lines:
                return f"{self.name}:{self.lines[path]}"
            path = path.rpartition(".")[0]
        return self.name

    def override(self, path: str, value: object) -> None:
        """Set the value at a dotted path. Raises ConfigError where no section can hold it."""
        node: object = self.data
        *sections, last = path.split(".")
        for depth, key in enumerate(sections):
            if isinstance(node, dict) and node.get(key) is None:
                node[key] = {}
                self.overridden.add(".".join(sections[: depth + 1]))
            found, node = find(node, key)
            if not found or not isinstance(node, dict | list):
                raise ConfigError(f"command line: {path}: '{'.'.join(sections[: depth + 1])}' is not a section")
        if isinstance(node, list):
            if not is_place(last, node):
                raise ConfigError(f"command line: {path}: '{'.'.join(sections)}' is a list of {len(node)}; no item '{last}'")
            node[int(last)] = value
        elif isinstance(node, dict):
            node[last] = value
        self.lines = {key: line for key, line in self.lines.items() if not key.startswith(f"{path}.")}
        self.overridden.add(path)

    def move(self, old: str, new: str) -> None:
        """Let `new` have been written where `old` was, so that a mistake in it is reported there."""
        if old in self.overridden:
            self.overridden.add(new)
        elif old in self.lines:
            self.lines[new] = self.lines[old]


def find(node: object, path: str) -> tuple[bool, object]:
    """Whether nested plain data hold something at a dotted path, and what."""
    for key in path.split("."):
        if isinstance(node, dict) and key in node:
            node = node[key]
        elif isinstance(node, list) and is_place(key, node):
            node = node[int(key)]
        else:
            return False, None
    return True, node


def is_place(key: str, items: list[object]) -> bool:
    """Whether a part of a dotted path is the place of an item of a list, as `0` is; neither `00` nor `²` is one."""
    return key in map(str, range(len(items)))


def read_document(path: Path) -> Document:
    """Parse a run file. Raises ConfigError with the line for whatever is not plain, unambiguous YAML."""
    try:
        if path.is_file() and path.stat().st_size > 4 * MAX_CHARACTERS:  # UTF-8 has at most 4 bytes a character
            raise ConfigError(f"{path}: {path.stat().st_size} bytes; a run file has at most {MAX_CHARACTERS} characters")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error}") from error
    return parse_document(text, path.name)


def parse_document(text: str, name: str) -> Document:
    """As `read_document`, from text."""
    parser = Parser(lambda line: f"{name}:{line}")
    data = parser.parse(text)
    if data is None:
        raise ConfigError(f"{name}: the file is empty")
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: a run file is a mapping of sections, such as `model:` and `data:`")
    return Document(data, name, parser.lines)


def document_of(run: Mapping[str, object]) -> Document:
    """A mapping of a run file's shape, copied; paths become text and tuples lists."""
    data = _plain(run, "")
    assert isinstance(data, dict)
    return Document(data)


def split_override(text: str) -> tuple[str, object]:
    """`objective.beta=0.2` -> ("objective.beta", 0.2)."""
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        raise ConfigError(f"command line: '{text}' is not an override; write key=value, such as objective.beta=0.2")
    return path, Parser(lambda _: f"command line: {path}").parse(value)


def _plain(value: object, path: str) -> object:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"the run: {path or 'the top level'}: keys are text, got {key!r}")
        return {key: _plain(item, f"{path}.{key}" if path else key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}.{index}") for index, item in enumerate(value)]
    return str(value) if isinstance(value, PurePath) else value
