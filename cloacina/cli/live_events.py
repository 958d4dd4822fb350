"""The events of an execution as they happen, over the delivery WebSocket (docs/concepts/delivery.md).

A connection that breaks is made again, to whichever gateway answers, and goes on behind the last event: each is seen
once, and none is missed.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import aiohttp

from cloacina.cli.client import ApiClient, ApiFailure, segment

_ENDED, _REVOKED, _NO_EXECUTION = 1000, 4401, 4404
_FINAL = {
    _REVOKED: (401, "unauthorized", "the key was revoked"),
    _NO_EXECUTION: (404, "execution_not_found", "there is no such execution"),
    4426: (400, "protocol_version", "the server speaks another version of the protocol"),
}
_HANDSHAKE_S = 15.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_PATIENCE = 12
"""Connections that fail in a row before it is given up: about half a minute."""


def follow_events(client: ApiClient, execution_id: str, on_event: Callable[[Any], object]) -> None:
    """Hands over every event of an execution, from the first, until it has ended.

    Args:
        client: of the API.
        execution_id: which.
        on_event: called with each event, in order.

    Raises:
        ApiFailure: there is no such execution, the key is not allowed, or nobody answers any more.
    """
    asyncio.run(_follow(client, execution_id, on_event))


async def _follow(client: ApiClient, execution_id: str, on_event: Callable[[Any], object]) -> None:
    path = f"/v1/ws/delivery/exec_events:{segment(execution_id)}"
    last, failures, pause = 0, 0, _FIRST_PAUSE_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(connect=_HANDSHAKE_S)) as session:
        while True:
            url, headers = client.address(path)
            before, code, error = last, 0, ""
            try:
                async with session.ws_connect(url, headers=headers, heartbeat=30.0) as socket:
                    await socket.send_json({"type": "hello", "protocol_version": 1, "since_id": last or None})
                    async for message in socket:
                        frame = json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else {}
                        if frame.get("type") == "push" and frame["id"] > last:
                            on_event(json.loads(base64.b64decode(frame["payload_b64"])))
                            last = frame["id"]
                        if frame.get("type") == "push":
                            await socket.send_json({"type": "ack", "protocol_version": 1, "id": frame["id"]})
                    code = socket.close_code or 0
            except aiohttp.WSServerHandshakeError as refused:
                if refused.status < 500:
                    raise ApiFailure(
                        f"the server answered {refused.status}", refused.status, client.request_id
                    ) from None
                error = f"the server answered {refused.status}"
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as broken:
                error = str(broken) or type(broken).__name__
            if code == _ENDED:
                return
            if code in _FINAL:
                status, machine_code, text = _FINAL[code]
                raise ApiFailure(text, status, client.request_id, machine_code)
            failures = 1 if last > before else failures + 1
            pause = _FIRST_PAUSE_S if last > before else min(pause * 2, _LONGEST_PAUSE_S)
            if failures > _PATIENCE:
                raise ApiFailure(
                    f"the events cannot be followed: {error or f'closed with {code}'}", 0, client.request_id
                )
            await asyncio.sleep(pause)
