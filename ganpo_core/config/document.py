"""YAML text becomes plain data that remembers its lines. YAML 1.2 scalars: `5e-7` is a number and `no` is a word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ganpo_core.errors import ConfigError

MAX_DEPTH = 64
MAX_NODES = 10_000

_STRING = "tag:yaml.org,2002:str"
_SCALARS = (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$")),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$")),
    ("tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")),
)


@dataclass
class Document:
    """The mapping of a run file; `lines` and `origin` tell where a dotted path was written."""

    data: dict[str, object]
    name: str = "the run"
    lines: dict[str, int] = field(default_factory=dict)
    overridden: set[str] = field(default_factory=set)

    def origin(self, path: str) -> str:
        """`run.yaml:7` or `command line` for the nearest written key at or above `path`."""
        while path:
            if path in self.overridden:
                return "command line"
            if path in self.lines:
                return f"{self.name}:{self.lines[path]}"
            path = path.rpartition(".")[0]
        return self.name


def read_document(path: Path) -> Document:
    """Parse a run file. Raises ConfigError with the line for whatever is not plain, unambiguous YAML."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    return parse_document(text, path.name)


def parse_document(text: str, name: str) -> Document:
    """As `read_document`, from text."""
    try:
        _check_depth(text, name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if root is None:
        raise ConfigError(f"{name}: the file is empty")
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{name}: a run file is a mapping of sections, such as `model:` and `data:`")
    document = Document({}, name)
    problems: list[str] = []
    data = _plain(root, "", document, problems, [0])
    if problems:
        raise ConfigError(problems)
    assert isinstance(data, dict)
    document.data = data
    return document


def parse_value(text: str, where: str) -> object:
    """The value of `key=value` on the command line, read as YAML."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {text!r} is not valid YAML") from error
    problems: list[str] = []
    value = None if node is None else _plain(node, "", Document({}, where), problems, [0])
    if problems:
        raise ConfigError(problems)
    return value


def override(document: Document, path: str, value: object) -> None:
    """Set `path`, such as `objective.beta` or `adversaries.0.weight`. Raises ConfigError where no section can hold it."""
    node: object = document.data
    keys = path.split(".")
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list) and key.isdigit() and int(key) < len(node):
            if last:
                node[int(key)] = value
            else:
                node = node[int(key)]
        elif isinstance(node, dict) and key:
            if last:
                node[key] = value
            elif node.get(key) is None:
                node[key] = node = {}
            else:
                node = node[key]
        else:
            raise ConfigError(f"command line: {path}: '{'.'.join(keys[:depth])}' is not a section")
    document.overridden.add(path)


def split_override(text: str) -> tuple[str, object]:
    """`objective.beta=0.2` -> ("objective.beta", 0.2)."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"command line: '{text}' is not an override; write key=value, such as objective.beta=0.2")
    return path.strip(), parse_value(value, f"command line: {path.strip()}")


def _check_depth(text: str, name: str) -> None:
    """Walk the events first: a parser that recurses would run out of stack on deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"{name}:{event.start_mark.line + 1}: nested more than {MAX_DEPTH} deep")


def _plain(node: yaml.Node, path: str, document: Document, problems: list[str], count: list[int]) -> object:
    where = f"{document.name}:{node.start_mark.line + 1}"
    count[0] += 1
    if count[0] > MAX_NODES:  # aliases multiply: 300 bytes can mean millions of values
        raise ConfigError(f"{where}: more than {MAX_NODES} values; are anchors and aliases expanding?")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document, problems, count)
    if isinstance(node, yaml.SequenceNode):
        items: list[object] = []
        for index, child in enumerate(node.value):
            child_path = f"{path}.{index}" if path else str(index)
            document.lines[child_path] = child.start_mark.line + 1
            items.append(_plain(child, child_path, document, problems, count))
        return items
    return _scalar(node, where, problems)


def _mapping(
    node: yaml.MappingNode, path: str, document: Document, problems: list[str], count: list[int]
) -> dict[str, object]:
    result: dict[str, object] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(f"{document.name}:{line}: a key must be a word")
            continue
        child = f"{path}.{key}" if path else str(key)
        if key in result:
            first = document.lines[child]
            problems.append(f"{document.name}:{line}: {child}: given twice, first on line {first}; remove one")
            continue
        document.lines[child] = line
        result[key] = _plain(value_node, child, document, problems, count)
    return result


def _scalar(node: yaml.Node, where: str, problems: list[str]) -> object:
    text: str = node.value
    if node.tag not in _KNOWN_TAGS:
        problems.append(f"{where}: tag {node.tag} is not allowed; write plain YAML")
        return None
    plain = getattr(node, "style", None) is None
    tag = next((tag for tag, pattern in _SCALARS if plain and pattern.match(text)), _STRING)
    if tag.endswith("null"):
        return None
    if tag.endswith("bool"):
        return text.lower() == "true"
    if tag.endswith("int"):
        return int(text.replace("_", ""))
    if tag.endswith("float"):
        if re.match(r"^[-+]?0[0-9_]+$", text):
            problems.append(f"{where}: {text} is read differently by YAML 1.1 and 1.2; write it without the leading 0")
        return float(text.replace("_", ""))
    return text


_KNOWN_TAGS: Sequence[str] = tuple(
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value")
)
