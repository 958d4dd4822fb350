"""Reading what clients send: sizes, times, strict JSON, query strings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import orjson
from aiohttp import HttpVersion11, web
from pydantic import BaseModel, ValidationError

from cloacina.errors import InvalidRequest, PayloadTooLarge
from services.api.errors import ExpectationFailed, RequestTimeout, UnsupportedMediaType

JSON_LIMIT_BYTES = 1024 * 1024
"""Largest body that is not an upload (contract, section 5)."""

_NO_CODES: Mapping[str, str] = MappingProxyType({})
_Model = TypeVar("_Model", bound=BaseModel)


def check_expectation(http: web.BaseRequest) -> None:
    """Refuses an ``Expect`` header that asks for the unknown.

    Raises:
        ExpectationFailed: it is not 100-continue.
    """
    expectation = http.headers.get("Expect")
    if expectation is not None and expectation.lower() != "100-continue":
        raise ExpectationFailed("only 'Expect: 100-continue' is understood")


async def begin_body(http: web.BaseRequest, limit: int, *, allowance: int = 0) -> None:
    """Checks what the headers say of the body, and tells a client that waits for it to go on.

    Called when everything that can refuse the request without its body has been asked, so that a client that sends
    ``Expect: 100-continue`` never sends a body in vain.

    Args:
        http: the request.
        limit: most bytes that what is sent may have.
        allowance: bytes that a form around it may take besides.

    Raises:
        PayloadTooLarge: ``Content-Length`` is over `limit` and `allowance`.
        UnsupportedMediaType: the body is compressed.
    """
    length = http.content_length
    if length is not None and length > limit + allowance:
        raise too_large(limit)
    if http.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("compressed bodies are not taken; send it without Content-Encoding")
    if "Expect" in http.headers and http.version >= HttpVersion11 and not http.content.is_eof():
        await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        http.writer.output_size = 0  # the answer itself has not begun


async def read_body(http: web.BaseRequest, *, limit: int, timeout_s: float) -> bytes:
    """The whole body.

    Args:
        http: the request.
        limit: most bytes it may have.
        timeout_s: seconds it may take to come.

    Raises:
        PayloadTooLarge, UnsupportedMediaType: see `begin_body`.
        RequestTimeout: it did not come in time.
        InvalidRequest: it broke off.
    """
    await begin_body(http, limit)
    content = http.content
    if content.is_eof():  # the usual case: it came in one packet with the head
        data = content.read_nowait(-1)
        if len(data) > limit:
            raise too_large(limit)
        return data
    parts = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while chunk := await content.readany():
                parts += chunk
                if len(parts) > limit:
                    raise too_large(limit)
    except TimeoutError:
        raise RequestTimeout(f"the request body did not arrive within {timeout_s:.0f} seconds") from None
    except web.RequestPayloadError as error:
        raise InvalidRequest("the request body is not valid HTTP, or broke off") from error
    return bytes(parts)


def too_large(limit: int) -> PayloadTooLarge:
    """The refusal of a body over `limit` bytes."""
    shown = f"{limit // 2**20} MiB" if limit % 2**20 == 0 else f"{limit // 10**6} MB"
    return PayloadTooLarge(f"the request body is over the limit of {shown}")


def parse_json(body: bytes) -> Any:
    """Strict JSON: no NaN, no trailing garbage, valid UTF-8, no key twice, no integer that would lose digits.

    Raises:
        InvalidRequest: with the place of the fault.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the request body is not valid JSON: {error}") from None
    try:
        _STRICT.decode(body.decode())
    except RecursionError:
        raise InvalidRequest("the request body is not valid JSON: nested too deep") from None
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidRequest(f"the request body is not valid JSON: the key {key[:100]!r} is there twice")
            seen.add(key)


def _exact(digits: str) -> None:
    if len(digits) > 18 and (len(digits) > 20 or not -(2**63) <= int(digits) < 2**64):
        raise InvalidRequest(
            f"the integer {digits[:24]}{'…' * (len(digits) > 24)} does not fit in 64 bits; send it as a string"
        )


_STRICT = json.JSONDecoder(object_pairs_hook=_distinct, parse_int=_exact)


async def read_model(
    http: web.BaseRequest,
    model: type[_Model],
    *,
    timeout_s: float,
    required: bool = True,
    codes: Mapping[str, str] = _NO_CODES,
) -> _Model:
    """The body as a model.

    Args:
        http: the request.
        model: what it must be.
        timeout_s: seconds it may take to come.
        required: whether an empty body is refused; otherwise it stands for ``{}``.
        codes: machine codes of faults in certain fields, by field.

    Raises:
        InvalidRequest: it is not; the message names the field.
    """
    body = await read_body(http, limit=JSON_LIMIT_BYTES, timeout_s=timeout_s)
    if not body and required:
        raise InvalidRequest("the request needs a JSON body")
    value = parse_json(body) if body else {}
    if not isinstance(value, dict):
        raise InvalidRequest("the request body must be a JSON object")
    try:
        checked = model.model_validate(value)
    except ValidationError as error:
        code = next((codes[field] for field in _faulty(error) if field in codes), None)
        raise InvalidRequest(_explain(error), code=code) from None
    for name, given in value.items():
        taken = getattr(checked, name, None)
        if isinstance(taken, (bool, int, float)) and _kind(given) != _kind(taken):
            raise InvalidRequest(f"{name}: must be {_kind(taken)}, not {_kind(given)}", code=codes.get(name))
    return checked


def _kind(value: object) -> str:
    """What JSON calls a value. Pydantic takes true for 1, and "1" too; a client that sends that has made a mistake."""
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, (int, float)) else "text"


def read_query(http: web.BaseRequest, model: type[_Model], *, pagination: Iterable[str] = ()) -> _Model:
    """The query parameters as a model. Unknown ones are refused: a filter with a typing error would match everything.

    Args:
        http: the request.
        model: what they must be.
        pagination: the fields whose faults have the code invalid_pagination.

    Raises:
        InvalidRequest: they are not; the message names the parameter.
    """
    given = http.rel_url.query
    values: dict[str, str] = {}
    for name, value in given.items():
        if name in values:
            code = "invalid_pagination" if name in pagination else None
            raise InvalidRequest(f"the query parameter {name!r} is there twice", code=code)
        values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faulty = _faulty(error)
        pages = not faulty or faulty & set(pagination)
        raise InvalidRequest(_explain(error), code="invalid_pagination" if pages else None) from None


def _faulty(error: ValidationError) -> set[str]:
    return {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}


def _explain(error: ValidationError) -> str:
    faults = []
    for fault in error.errors(include_url=False):
        place = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "is not known here"
        faults.append(f"{place}: {message}" if place else message)
    return "; ".join(faults[:5])
