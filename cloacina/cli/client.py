"""Calling the HTTP API from the command line."""

from __future__ import annotations

import io
import json
import secrets
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from cloacina.errors import Unauthorized

_DEADLINE_S = 30.0
_UPLOAD_DEADLINE_S = 300.0


class ApiFailure(Exception):
    """The API refused, or could not be reached.

    Args:
        message: prose.
        status: HTTP status; 0 when there was no answer.
        request_id: of the request, for the logs.
        code: the machine's word for it; empty when there was no answer.
    """

    def __init__(self, message: str, status: int, request_id: str, code: str = "") -> None:
        super().__init__(message)
        self.prose = message
        self.message = f"{message} [{code}]" if code else message
        self.status = status
        self.request_id = request_id
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} (x-request-id {self.request_id})"


def read_bootstrap_key(home: Path) -> str:
    """The key that the server on this machine made at its first start.

    Raises:
        Unauthorized: there is none.
    """
    path = home / "bootstrap-key"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise Unauthorized(
            f"no API key: give --api-key or CLOACINA_API_KEY ({path} cannot be read: {error.strerror})"
        ) from None


class ApiClient:
    """The API of one server.

    Args:
        server: its base URL.
        api_key: the key.
    """

    def __init__(self, server: str, api_key: str) -> None:
        self._server = server.rstrip("/")
        self._api_key = api_key
        self.request_id = ""

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        deadline_s: float = _DEADLINE_S,
    ) -> Any:
        """A call. Its request id is in `request_id` afterwards.

        Args:
            method: HTTP method.
            path: path and query.
            body: JSON value.
            headers: further headers.
            deadline_s: seconds to wait.

        Raises:
            ApiFailure: see there.
        """
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})} if data is not None else dict(headers or {})
        return self._send(method, path, data, sent, deadline_s)

    def address(self, path: str) -> tuple[str, dict[str, str]]:
        """Where a path of the API is, and the headers of a request to it: for what is no plain call."""
        self.request_id = str(uuid4())
        headers = {"Authorization": f"Bearer {self._api_key}", "x-request-id": self.request_id}
        return f"{self._server}{path}", headers

    def upload(self, path: str, name: str, content: bytes, *, on_sent: Callable[[int], object] = lambda _: None) -> Any:
        """Uploads a file as a multipart form.

        Args:
            path: where.
            name: of the file.
            content: of the file.
            on_sent: told how many bytes went, each time some did.

        Raises:
            ApiFailure: see there.
        """
        boundary = secrets.token_hex(16)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{urllib.parse.quote(name)}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        data = b"".join((head.encode(), content, f"\r\n--{boundary}--\r\n".encode()))
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Content-Length": str(len(data))}
        return self._send("POST", path, _Watched(data, on_sent), headers, _UPLOAD_DEADLINE_S)

    def _send(
        self, method: str, path: str, data: bytes | io.BytesIO | None, headers: dict[str, str], deadline_s: float
    ) -> Any:
        self.request_id = str(uuid4())
        request = urllib.request.Request(  # noqa: S310 - the URL is the operator's own
            f"{self._server}{path}",
            data=data,
            method=method,
            headers={"x-request-id": self.request_id, **headers, "Authorization": f"Bearer {self._api_key}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=deadline_s) as response:  # noqa: S310
                self.request_id = response.headers.get("x-request-id", self.request_id)
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            message, code = _said(error)
            request_id = error.headers.get("x-request-id", self.request_id)
            raise ApiFailure(message, error.code, request_id, code) from None
        except (TimeoutError, urllib.error.URLError, ConnectionError, json.JSONDecodeError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                message = (
                    f"the certificate of the server at {self._server} is not trusted: {reason.verify_message}; set "
                    "SSL_CERT_FILE to the PEM file of the authority that signed it"
                )
                raise ApiFailure(message, 0, self.request_id) from None
            message = (
                f"the server at {self._server} cannot be reached: {reason}; start one with: cloacinactl server start"
            )
            raise ApiFailure(message, 0, self.request_id) from None


class _Watched(io.BytesIO):
    """A body that tells how much of it was sent."""

    def __init__(self, content: bytes, on_sent: Callable[[int], object]) -> None:
        super().__init__(content)
        self._on_sent = on_sent

    def read(self, size: int | None = -1) -> bytes:
        part = super().read(size)
        self._on_sent(len(part))
        return part


def _said(error: urllib.error.HTTPError) -> tuple[str, str]:
    try:
        body = json.loads(error.read())
        return str(body["error"]), str(body["code"])
    except (json.JSONDecodeError, KeyError, TypeError, OSError):
        return f"the server answered {error.code}", ""


def segment(text: str) -> str:
    """A text as one segment of a path."""
    return urllib.parse.quote(text, safe="")
