"""URLs of databases without their passwords, for files, messages and commands to repeat."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

HIDDEN = "***"
_BEGINS = re.compile(r"[A-Za-z][\w+.-]*://")
_URL = re.compile(rf"{_BEGINS.pattern}[^\s'\"]*")
_SECRET = re.compile("pass|pwd|secret|token|key|credential|@", re.IGNORECASE)
"""Found in the name or value of a query parameter that may hold a secret."""


def without_passwords(text: str) -> str:
    """The text with `***` in place of the passwords in its URLs. A URL ends at a space or quote."""

    def hide(match: re.Match[str]) -> str:
        url = match[0].rstrip(").,:;>]")
        return url_without_secrets(url) + match[0][len(url) :]

    return _URL.sub(hide, text)


def word_without_secrets(word: str) -> str:
    """One word of a command, such as `--storage=URL`; its URL may hold spaces."""
    begins = _BEGINS.search(word)
    return word if begins is None else word[: begins.start()] + url_without_secrets(word[begins.start() :])


def url_without_secrets(url: str) -> str:
    """The URL with `***` as its password, and without the query parameters that hold secrets.

    A URL that cannot be taken apart becomes its scheme and `***`. One without secrets stays as it
    is.

    Example:
        `postgresql://u:p@h/db?sslkey=k` becomes `postgresql://u:***@h/db`.
    """
    parsed = _parsed(url)
    if parsed is None:
        scheme = _BEGINS.match(url)
        if scheme is None:
            return HIDDEN if set(url) & set(":@?") else url
        return scheme[0] + HIDDEN
    secret = _secret_parameters(parsed)
    if not secret and parsed.password is None:
        return url
    return parsed.difference_update_query(secret).render_as_string(hide_password=True)


def is_ambiguous(url: str) -> bool:
    """True if a URL cannot be taken apart, so that a password may be taken for a host."""
    return "://" in url and _parsed(url) is None


def replace_secrets(text: str, urls: Iterable[str]) -> str:
    """The text with each of these URLs, and each secret of theirs, replaced."""
    for url in urls:
        text = text.replace(url, url_without_secrets(url))
        parsed = _parsed(url)
        if parsed is not None:
            given = [one for name in _secret_parameters(parsed) for one in _values(parsed, name)]
            for secret in filter(None, [str(parsed.password or ""), *given]):
                text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return without_passwords(text)


def _parsed(url: str) -> URL | None:
    """The parts of a URL; None if it cannot be taken apart for certain."""
    if "://" not in url:
        return None
    try:
        # It takes long to import, and only searches need it: Optuna brings it.
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError:
        return None
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    # A second `@` means that a part of the password was taken for the host or the database. Only
    # SQLite's database is a path, which may hold one.
    is_file = parsed.drivername.startswith("sqlite") and not parsed.host and parsed.username is None
    places = [parsed.host, parsed.username, *([] if is_file else [parsed.database])]
    return None if any("@" in (place or "") for place in places) else parsed


def _secret_parameters(parsed: URL) -> list[str]:
    """The names of the query parameters that may hold secrets."""
    return [name for name in parsed.query if any(map(_SECRET.search, (name, *_values(parsed, name))))]


def _values(parsed: URL, name: str) -> tuple[str, ...]:
    """The values of a query parameter, which may be given several times."""
    value = parsed.query[name]
    return (value,) if isinstance(value, str) else tuple(value)
