"""Credentials leave no trace: they are taken out of whatever is printed, raised or written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

MASK = "***"

_IN_URL = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#'\"]*@")
_IN_QUERY = re.compile(
    r"(?P<key>(?:[?&;]|\b)(?:[\w-]*(?:token|secret|password|passwd|signature|api[_-]?key|access[_-]?key)|sig)=)[^\s&;'\"]+",
    re.IGNORECASE,
)
_IN_HEADER = re.compile(r"(?P<scheme>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)"
)
_NAMES = re.compile(
    r"(?:^|_)(?:TOKEN|KEY|APIKEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASS|CREDENTIALS?|CREDS?|PAT|AUTH|JWT|BEARER)(?:$|_)",
    re.IGNORECASE,
)
_PLACES = re.compile(r"(?:^|_)(?:PATH|FILE|DIR|FOLDER|SOCK|SOCKET)$", re.IGNORECASE)
_LEAST = 8
"""Characters of a value that is looked for: a shorter one would be found in ordinary words."""


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` without credentials: those in URLs and headers, tokens of a known shape, and the environment's own secrets.

    A variable holds a secret if its name says so: HF_TOKEN, WANDB_API_KEY, AWS_SECRET_ACCESS_KEY, PGPASSWORD.
    """
    for value in sorted(_secrets(os.environ if environment is None else environment), key=len, reverse=True):
        text = text.replace(value, MASK)
    text = _IN_URL.sub(rf"\g<scheme>{MASK}@", text)
    text = _IN_QUERY.sub(rf"\g<key>{MASK}", text)
    text = _IN_HEADER.sub(rf"\g<scheme>{MASK}", text)
    return _SHAPES.sub(MASK, text)


def redact_all(value: object) -> object:
    """Nested plain data with every text redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item) for item in value]
    return value


def _secrets(environment: Mapping[str, str]) -> set[str]:
    return {value for name, value in environment.items() if len(value) >= _LEAST and _is_secret(name, value)}


def _is_secret(name: str, value: str) -> bool:
    return bool(_NAMES.search(name) or name.upper().endswith("PASSWORD")) and not _is_path(name, value)


def _is_path(name: str, value: str) -> bool:
    """Where a secret is kept is none itself: SSH_KEY_PATH=/home/me/.ssh/id. A key of AWS may begin with a slash as well."""
    if not value.startswith(("/", "~", "./")):
        return False
    return bool(_PLACES.search(name)) or Path(value).expanduser().exists()
