"""The OpenAPI document in the documentation is the one that the gateway answers."""

from __future__ import annotations

from tests.scripts import load_script

openapi = load_script("openapi")


def test_the_document_is_what_the_routes_generate() -> None:
    assert openapi.FILE.read_bytes() == openapi.document(), "run: python scripts/openapi.py --write"
