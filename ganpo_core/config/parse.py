"""YAML text becomes plain data. Scalars follow YAML 1.2: `5e-7` is a number and `no` is a word."""

from __future__ import annotations

import re
from collections.abc import Callable

import yaml
from yaml.reader import ReaderError

from ganpo_core.errors import ConfigError

MAX_DEPTH = 64
MAX_NODES = 10_000
MAX_DIGITS = 100
MAX_LINES = 10_000
MAX_CHARACTERS = 200_000
"""Of a run file; a reader in Python takes about a second for so much."""

_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)$")
_LEADING_ZERO = re.compile(r"^[-+]?0[0-9_]+$")
_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")


class Parser:
    """One reading of one text; remembers the line of every dotted path."""

    def __init__(self, where: Callable[[int], str]) -> None:
        self.lines: dict[str, int] = {}
        self._where = where
        self._problems: list[str] = []
        self._num_nodes = 0

    def parse(self, text: str) -> object:
        """The value of a text. Raises ConfigError, with the line, for whatever is not plain, unambiguous YAML."""
        if len(text) > MAX_CHARACTERS or (lines := text.count("\n") + 1) > MAX_LINES:
            size = f"{len(text)} characters" if len(text) > MAX_CHARACTERS else f"{lines} lines"
            raise ConfigError(
                f"{self._where(1)}: {size}; a run file has at most {MAX_LINES} lines and {MAX_CHARACTERS} characters"
            )
        try:
            self._check_events(text)
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except ReaderError as error:
            where = self._where(text.count("\n", 0, error.position) + 1)
            raise ConfigError(f"{where}: not valid YAML: character {error.character!r} is not allowed") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError(f"{self._where(line)}: not valid YAML: {error.problem or error.context}") from error
        value = None if root is None else self._value(root, "", 0)
        if self._problems:
            raise ConfigError(self._problems)
        return value

    def _check_events(self, text: str) -> None:
        """Refuse tags, deep nesting and too many values before anything recurses: composing would run out of stack."""
        depth = num_values = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            num_values += isinstance(event, yaml.ScalarEvent)
            if num_values > MAX_NODES:
                raise ConfigError(f"{self._where(line)}: more than {MAX_NODES} values; is this a run file?")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                raise ConfigError(f"{self._where(line)}: nested more than {MAX_DEPTH} deep")
            if getattr(event, "version", None) not in (None, (1, 2)):
                self._problem(line, "%YAML: only version 1.2 is read; remove the line")
            tag = getattr(event, "tag", None)
            if tag is not None:
                self._problem(line, f"tag {tag} is not allowed; write plain YAML")

    def _value(self, node: yaml.Node, path: str, depth: int) -> object:
        line = node.start_mark.line + 1
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:  # aliases multiply: 300 bytes can mean millions of values
            raise ConfigError(f"{self._where(line)}: more than {MAX_NODES} values; are anchors and aliases expanding?")
        if depth > MAX_DEPTH:
            raise ConfigError(f"{self._where(line)}: nested more than {MAX_DEPTH} deep; does an anchor contain itself?")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path, depth)
        quoted = getattr(node, "style", None) is not None
        return node.value if quoted else self._scalar(node.value, line)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(line, "a key must be a word")
                continue
            key: str = key_node.value
            child = f"{path}.{key}" if path else key
            if key == "<<":
                self._problem(line, f"{child}: merge keys are not supported; write the keys out")
            elif key in result:
                self._problem(line, f"{child}: given twice, first on line {self.lines[child]}; remove one")
            else:
                self.lines[child] = line
                result[key] = self._value(value_node, child, depth + 1)
        return result

    def _sequence(self, node: yaml.SequenceNode, path: str, depth: int) -> list[object]:
        items: list[object] = []
        for index, item in enumerate(node.value):
            child = f"{path}.{index}" if path else str(index)
            self.lines[child] = item.start_mark.line + 1
            items.append(self._value(item, child, depth + 1))
        return items

    def _scalar(self, text: str, line: int) -> object:
        if _NULL.match(text):
            return None
        if _BOOL.match(text):
            return text.lower() == "true"
        if _LEADING_ZERO.match(text):
            self._problem(line, f"{text} is read differently by YAML 1.1 and 1.2; write it without the leading 0")
            return None
        if not _FLOAT.match(text):
            return text
        if len(text) > MAX_DIGITS:
            self._problem(line, f"a number of {len(text)} characters; the longest is {MAX_DIGITS}")
            return None
        digits = text.replace("_", "")
        return int(digits) if _INT.match(text) else float(digits)

    def _problem(self, line: int, message: str) -> None:
        self._problems.append(f"{self._where(line)}: {message}")
