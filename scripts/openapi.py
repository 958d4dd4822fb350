"""Writes docs/openapi.json, the document that ``GET /openapi.json`` answers, or checks that it matches.

Usage: python scripts/openapi.py --write | --check
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from services.api.openapi import openapi_document
from services.api.routes import ALL_ROUTES

FILE = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"


def document() -> bytes:
    """The document, indented: what changes in it shows line by line."""
    return orjson.dumps(orjson.loads(openapi_document(ALL_ROUTES)), option=orjson.OPT_INDENT_2) + b"\n"


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    if arguments == ["--write"]:
        FILE.write_bytes(document())
        return 0
    if arguments != ["--check"]:
        print(__doc__)
        return 2
    if FILE.read_bytes() != document():
        print("docs/openapi.json is not what the routes generate; run: python scripts/openapi.py --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
