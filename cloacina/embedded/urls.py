"""Database URLs as the original takes them, and what they are to `cloacina.store.open_database`."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

IN_MEMORY = "sqlite://"
_LONGEST_SCHEMA = 63
"""PostgreSQL cuts longer names, and two could become one."""
_SEARCH_PATH = re.compile(r"(?:^|\s)-c\s*search_path=(\w+)(?:\s|$)")
_POSTGRES = ("postgres://", "postgresql://")


def store_url(database_url: str) -> str:
    """The URL of the store.

    Args:
        database_url: ``sqlite://relative/path``, ``sqlite:///absolute/path``, a bare path, ``sqlite://:memory:`` (also
            ``sqlite::memory:``, ``sqlite:///:memory:`` and ``:memory:``), or ``postgresql://…``. Parameters after a
            ``?`` of a SQLite URL are ignored: the store sets its own.
    """
    if is_postgres(database_url):
        return database_url
    has_scheme = database_url.startswith("sqlite:")
    if not has_scheme and "://" in database_url:
        return database_url  # of a kind that the store refuses, by name
    path = database_url.removeprefix("sqlite:").removeprefix("//")
    if has_scheme:
        path = path.partition("?")[0]
    if path.strip("/") in ("", ":memory:"):
        return IN_MEMORY
    return f"sqlite://{path}"


def is_postgres(database_url: str) -> bool:
    """Whether it names a PostgreSQL database."""
    return database_url.startswith(_POSTGRES)


def check_schema(database_url: str, schema: str) -> None:
    """Whether a runner could have its tables in `schema` of this database.

    Raises:
        ValueError: it is no PostgreSQL database, or the name is not letters, digits and underscores.
    """
    if not is_postgres(database_url):
        raise ValueError(
            "Schema-based multi-tenancy requires PostgreSQL: SQLite has no schemas. Use a URL such as "
            "'postgresql://user:password@host/database', or a SQLite file for each tenant"
        )
    if not schema:
        raise ValueError("Schema name cannot be empty")
    if len(schema) > _LONGEST_SCHEMA:
        raise ValueError(f"Schema name must have at most {_LONGEST_SCHEMA} characters")
    if not all(character.isalnum() or character == "_" for character in schema):
        raise ValueError("Schema name must contain only alphanumeric characters and underscores")


def with_search_path(database_url: str, schema: str) -> str:
    """A PostgreSQL URL whose sessions find their tables in `schema`, for any client."""
    parts = urlsplit(database_url)
    parameters = [pair for pair in parse_qsl(parts.query) if pair[0] != "options"]
    return urlunsplit(parts._replace(query=urlencode([*parameters, ("options", f"-csearch_path={schema}")])))


def search_path_of(database_url: str) -> str:
    """The schema that a PostgreSQL URL leads to by its ``options``; empty where it names none, or several."""
    if not is_postgres(database_url):
        return ""
    options = dict(parse_qsl(urlsplit(database_url).query)).get("options", "")
    found = _SEARCH_PATH.search(options)
    return found[1] if found else ""


def shown(database_url: str) -> str:
    """The URL without its password, for messages and logs."""
    scheme, separator, rest = database_url.partition("://")
    if not separator or "@" not in rest:
        return database_url
    return f"{scheme}://…@{rest.rpartition('@')[2]}"
