"""Names of files and addresses: which is which, and what of them may be shown.

Addresses can hold secrets: ``user:password@`` before the host, a signature or a token in the query.
Neither may end up in a message, a log, a layer or a journal.
"""

from __future__ import annotations

import re

HIDDEN = "***"
"""Stands where a secret was."""

# Addresses of databases have their own rule: `footprints.vector.postgis.shown`.
_MARK = r"(?<!postgresql)(?<!postgres)://"
_USER = re.compile(rf"({_MARK})[^/\s'\"?]*@")
_QUERY = re.compile(rf"((?:{_MARK}|/vsi[a-z0-9_]+)[^\s?'\"]*)\?[^\s'\"]+")


def is_address(named: str) -> bool:
    """Whether it is GDAL's to look for; a question mark is none of a pattern there."""
    return "://" in named or named.startswith("/vsi")


def file_name(address: str) -> str:
    """The last part of a path or an address, without its query."""
    path = address.split("?", 1)[0] if "://" in address else address
    return path.rstrip("/").rsplit("/", 1)[-1]


def redact(text: str) -> str:
    """A text with the secrets of all addresses in it left out."""
    return _QUERY.sub(rf"\1?{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))
