"""Several statements over arrays as one: what a group commit writes is sent, and is durable, in one round trip.

Such a statement is a transaction by itself. Its parts are data-modifying WITH queries, and all see the tables as they
were before it: so only those are joined that say so by taking their rows as arrays, and no two of one transaction touch
the same row. Row counts are checked by the server: a wrong one is a division by zero, which undoes everything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cloacina.store.database import Schema, Statement

_COMMENT = re.compile(r"^\s*--[^\n]*\n", re.MULTILINE)
_PARAMETER = re.compile(r"\$(\d+)")
_CHECK = "1 / ((SELECT count(*) FROM s{number}) = cardinality(${first}))::integer"


class JoinedStatements:
    """The SQL of transactions that are one statement, made once for each set of queries.

    Args:
        schema: what the names of queries mean.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._made: dict[tuple[tuple[str, bool], ...], str] = {}

    def sql(self, statements: Sequence[Statement]) -> str | None:
        """What does the same as these statements, in one; its parameters are all columns of the first, then of the
        next. ``None`` where they cannot be joined."""
        by_arrays = self._schema.by_arrays
        for statement in statements:
            if statement.query not in by_arrays or statement.expect not in (None, len(statement.rows)):
                return None
        shape = tuple([(statement.query, statement.expect is not None) for statement in statements])
        sql = self._made.get(shape)
        if sql is None:
            sql = self._made[shape] = self._join(shape)
        return sql

    def _join(self, shape: Sequence[tuple[str, bool]]) -> str:
        parts, checks, parameters = [], [], 0
        for number, (query, counted) in enumerate(shape, start=1):
            sql = _COMMENT.sub("", self._schema.queries[query])
            if counted:
                # in the order of the statements: the fence of an owner comes before what it guards
                checks.append(_CHECK.format(number=number, first=parameters + 1))
                if not sql.startswith("SELECT"):
                    sql += " RETURNING 1"
            parts.append(f"s{number} AS ({_renumbered(sql, parameters)})")
            parameters += max(int(found) for found in _PARAMETER.findall(sql))
        return f"WITH {', '.join(parts)} SELECT {', '.join(checks)}"


def _renumbered(sql: str, by: int) -> str:
    return _PARAMETER.sub(lambda found: f"${int(found[1]) + by}", sql)
