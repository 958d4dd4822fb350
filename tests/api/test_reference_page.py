"""The API reference as a page: complete, without scripts, without other hosts."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from services.api.routes import ALL_ROUTES

from .conftest import SHARED
from .stand import Reply, Stand


class Page(HTMLParser):
    """What is in a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.addresses: set[str] = set()
        self.handlers: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            elif name in ("href", "src"):
                self.addresses.add(str(value))
            elif name.startswith("on") or name == "style":
                self.handlers.add(name)

    def handle_data(self, data: str) -> None:
        self.text += data


async def _page(stand: Stand) -> tuple[Reply, Page]:
    reply = await stand.ask("GET", "/docs", key=None)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    return reply, Page(reply.body.decode())


@SHARED
async def test_every_route_is_on_it(shared_stand: Stand) -> None:
    _, page = await _page(shared_stand)
    for route in ALL_ROUTES:
        assert route.operation in page.ids
        assert f"{route.method} {route.path}" in page.text
        assert route.summary in page.text
    assert len(page.ids) == len(set(page.ids))


@SHARED
async def test_its_links_lead_somewhere_and_never_elsewhere(shared_stand: Stand) -> None:
    _, page = await _page(shared_stand)
    inside = {address[1:] for address in page.addresses if address.startswith("#")}
    assert inside <= set(page.ids)
    assert {address for address in page.addresses if not address.startswith("#")} == {"/openapi.json"}


@SHARED
async def test_nothing_but_its_own_style_is_allowed(shared_stand: Stand) -> None:
    reply, page = await _page(shared_stand)
    assert not page.tags & {"script", "iframe", "img", "link", "object", "form"}
    assert not page.handlers
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    (style,) = re.findall(r"<style>(.*?)</style>", reply.body.decode(), re.DOTALL)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
