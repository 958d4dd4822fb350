"""Takes the values of secrets out of what a worker says, before it is written anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

MIN_LENGTH = 4
"""Values of fewer characters are left alone: they are in every other word, and hide nothing."""
_MAX_FORMS = 10_000
"""Forms that are looked for; the oldest are forgotten first."""


class Redactor:
    """Replaces values by ``[secret name]``, as they are and as they look quoted, escaped or line by line."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self._names)

    def add(self, values: Iterable[tuple[str, str]]) -> None:
        """Looks for these from now on.

        Args:
            values: each with the name of its secret.
        """
        before = len(self._names)
        for name, value in values:
            for form in _forms(value):
                self._names.setdefault(form, name)
        if len(self._names) == before:
            return
        while len(self._names) > _MAX_FORMS:
            del self._names[next(iter(self._names))]
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def text(self, text: str) -> str:
        """The text without values."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: f"[secret {self._names[found[0]]}]", text)

    def tree(self, value: Any) -> Any:
        """A JSON value without values of secrets: its texts, the keys of its objects and its numbers included."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.tree(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.tree(each) for each in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            shown = str(value)
            return value if self._pattern.search(shown) is None else self.text(shown)
        return value


def _forms(value: str) -> Iterator[str]:
    """What a value looks like where it is shown."""
    whole = value.strip("\r\n")
    parts = whole.splitlines() if "\n" in whole else []
    for part in (whole, *(line.strip() for line in parts)):
        for form in (
            part,
            repr(part)[1:-1],
            json.dumps(part)[1:-1],
            json.dumps(part, ensure_ascii=False)[1:-1],
            quote(part, safe=""),
            quote(part),
            quote_plus(part),
        ):
            if len(form) >= MIN_LENGTH and len(part) >= MIN_LENGTH:
                yield form
