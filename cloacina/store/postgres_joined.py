"""Several statements over arrays as one: what a group commit writes is sent, and is durable, in one round trip.

Such a statement is a transaction by itself. Its parts are data-modifying WITH queries, and all see the tables as they
were before it: so only those are joined that say so by taking their rows as arrays, and no two of one transaction touch
the same row. Row counts are checked by the server: a wrong one is a division by zero, which undoes everything.

Arrays of texts and numbers travel as their literals, which Python makes in half the time that asyncpg takes to encode
them, value by value. In a small transaction, where time is what counts, a single row travels as plain values: the
server has less to set up for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cloacina.store.database import Schema, Statement

_COMMENT = re.compile(r"^\s*--[^\n]*\n", re.MULTILINE)
_ARRAY = re.compile(r"\$(\d+)::(\w+)\[\]")
_SMALL = 32
"""Rows of a transaction up to which single ones travel as values: a busy engine has not one plan more for them."""
_UNNEST = re.compile(r"unnest\((\$[^()]*)\)")
_CHECK = "1 / ((SELECT count(*) FROM s{part}) = ${expected}::bigint)::integer"

Column = Sequence[Any]


def _numbers(column: Column) -> str:
    return f"{{{','.join(map(str, column)).replace('None', 'NULL')}}}"


def _texts(column: Column) -> str:
    if None not in column:
        joined = '","'.join(column)
        if "\\" not in joined and joined.count('"') == 2 * len(column) - 2:  # those of the separators
            return f'{{"{joined}"}}'
    return f"{{{','.join(map(_text, column))}}}"


def _text(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_LITERALS: dict[str, Callable[[Column], str]] = {"text": _texts, "bigint": _numbers, "integer": _numbers}
"""How a column is written as the literal of an array, by the type of its values. Others travel as they are."""


class _Part(NamedTuple):
    """What the SQL of a statement depends on.

    Args:
        query: its name.
        counted: whether its rows are.
        single: whether its one row travels as values.
    """

    query: str
    counted: bool
    single: bool


class _Joined(NamedTuple):
    """One statement of many.

    Args:
        sql: its parameters are all columns of the first part, then of the next, and then the expected row counts.
        literals: how each column of each part is written, see `_LITERALS`.
    """

    sql: str
    literals: list[list[Callable[[Column], str] | None]]


class JoinedStatements:
    """Transactions that are one statement, whose SQL is made once for each combination of queries.

    Args:
        schema: what the names of queries mean.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._made: dict[tuple[_Part, ...], _Joined] = {}

    def join(self, statements: Sequence[Statement]) -> tuple[str, list[Any]] | None:
        """SQL, with its parameters, that does the same as these statements; ``None`` where they cannot be joined."""
        by_arrays = self._schema.by_arrays
        for statement in statements:
            if statement.query not in by_arrays:
                return None
        small = sum([len(statement.rows) for statement in statements]) <= _SMALL
        shape = tuple(
            [_Part(each.query, each.expect is not None, small and len(each.rows) == 1) for each in statements]
        )
        made = self._made.get(shape)
        if made is None:
            made = self._made[shape] = self._make(shape)
        parameters: list[Any] = []
        for statement, part, literals in zip(statements, shape, made.literals, strict=True):
            if part.single:
                parameters += statement.rows[0]
                continue
            columns = zip(*statement.rows, strict=True)
            parameters += [
                column if literal is None else literal(column)
                for column, literal in zip(columns, literals, strict=True)
            ]
        parameters += [statement.expect for statement in statements if statement.expect is not None]
        return made.sql, parameters

    def _make(self, shape: Sequence[_Part]) -> _Joined:
        parts: list[str] = []
        checked: list[int] = []
        literals: list[list[Callable[[Column], str] | None]] = []
        parameters = 0
        for number, part in enumerate(shape, start=1):
            sql = _COMMENT.sub("", self._schema.queries[part.query])
            if part.counted:
                checked.append(number)
                if not sql.startswith("SELECT"):
                    sql += " RETURNING 1"
            types = dict(sorted((int(number), kind) for number, kind in _ARRAY.findall(sql)))
            literals.append([_LITERALS.get(kind) for kind in types.values()])
            sql = _of_one_row(sql, parameters) if part.single else _with_literals(sql, parameters)
            parts.append(f"s{number} AS ({sql})")
            parameters += len(types)
        # in the order of the statements: the fence of an owner comes before what it guards
        checks = [_CHECK.format(part=part, expected=parameters + at) for at, part in enumerate(checked, start=1)]
        return _Joined(f"WITH {', '.join(parts)} SELECT {', '.join(checks)}", literals)


def _with_literals(sql: str, before: int) -> str:
    """The query as one that follows so many parameters, with literals in place of arrays."""

    def parameter(found: re.Match[str]) -> str:
        number, kind = int(found[1]) + before, found[2]
        return f"${number}::{'text::' if kind in _LITERALS else ''}{kind}[]"

    return _ARRAY.sub(parameter, sql)


def _of_one_row(sql: str, before: int) -> str:
    """The same for one row: values in place of arrays, which the server need not take apart."""
    sql = _UNNEST.sub(r"(SELECT \1)", sql)
    return _ARRAY.sub(lambda found: f"${int(found[1]) + before}::{found[2]}", sql).replace("= ANY(", "IN (")
