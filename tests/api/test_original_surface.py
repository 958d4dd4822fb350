"""What the original server promises in its OpenAPI document, this one promises too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.api.openapi import openapi_document
from services.api.routes import ALL_ROUTES

from .surface import surface

_ORIGINAL: dict[str, Any] = json.loads(Path(__file__).with_name("original_surface.json").read_text())
_OURS = surface(json.loads(openapi_document(ALL_ROUTES)))

_LOOSE = {
    "default": "any JSON, there and here; the original's document says so as an object or null",
    "context": "any JSON by the original's document; both servers take an object or null",
    "event": "the same",
    "params": "the same",
}
"""Fields whose types are not compared, and why."""


def _types(field: str) -> set[str]:
    types = set(field.rstrip("!").split("|"))
    return types | {"integer"} if "number" in types else types


def _fits(name: str, given: str, promised: str) -> bool:
    """Whether a value of the types `given` is one that a reader of `promised` can take."""
    return name.rpartition(".")[2] in _LOOSE or "any" in _types(promised) or _types(given) <= _types(promised)


@pytest.mark.parametrize("place", sorted(_ORIGINAL))
def test_an_operation_of_the_original(place: str) -> None:
    original, ours = _ORIGINAL[place], _OURS[place]
    assert ours["operation"] == original["operation"]
    assert set(original["query"]) <= set(ours["query"])
    assert set(original["answers"]) <= set(ours["answers"])
    for status, fields in original["answers"].items():
        answered = ours["answers"][status]
        for name, promised in fields.items():
            assert name in answered, f"{status} lacks {name}"
            assert answered[name].endswith("!") or not promised.endswith("!"), f"{status} may lack {name}"
            assert _fits(name, answered[name], promised), f"{status}: {name} is {answered[name]}, not {promised}"
    for name, taken in original["body"].items():
        assert name in ours["body"], f"the body does not take {name}"
        assert _fits(name, taken, ours["body"][name]), f"the body takes {ours['body'][name]} as {name}, not {taken}"
    for name, asked in ours["body"].items():
        if asked.endswith("!") and "." not in name and "[" not in name:
            assert original["body"].get(name, "").endswith("!"), f"the body must have {name}, which clients do not send"
