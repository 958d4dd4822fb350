"""Who may do what: keys that are missing, wrong, revoked, of another tenant, or too weak."""

from __future__ import annotations

from uuid import uuid4

import pytest
from aiohttp import web

from services.api.call import Call
from services.api.routes import ALL_ROUTES
from services.api.routing import Route
from tests.scripts import load_script

from .conftest import SHARED
from .stand import ADMIN_KEY, Stand

access_table = load_script("access_table")
SECURITY_PAGE = access_table.PAGE.read_text(encoding="utf-8")

_PATH = {
    "tenant_id": "acme",
    "instance": "prod",
    "name": "daily",
    "version": "1.2.0",
    "exec_id": str(uuid4()),
    "key_id": str(uuid4()),
    "account_id": str(uuid4()),
    "schema_name": "no_such_tenant",
    "request_id": "a-request",
    "fingerprint": "ab" * 32,
    "recipient": f"exec_events:{uuid4()}",
}


def _path(route: Route) -> str:
    return route.path.format(**_PATH)


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        (None, "missing"),
        ("", "malformed"),
        ("Bearer", "malformed"),
        (ADMIN_KEY, "malformed"),
        (f"Basic {ADMIN_KEY}", "malformed"),
        ("Bearer not-a-key", "malformed"),
        (f"Bearer {ADMIN_KEY} {ADMIN_KEY}", "malformed"),
        ("Bearer clk_" + "x" * 300, "malformed"),
        ("Bearer clk_" + "x" * 43, "invalid or revoked"),
    ],
)
@SHARED
async def test_without_a_valid_key(shared_stand: Stand, authorization: str | None, message: str) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    reply = await shared_stand.ask("GET", "/v1/tenants/acme/executions", key=None, headers=headers)
    reply.refused(401, "unauthorized", message)
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")


@SHARED
async def test_two_keys_are_none(shared_stand: Stand) -> None:
    one = f"Authorization: Bearer {ADMIN_KEY}\r\n"
    reply = await shared_stand.raw(f"GET /v1/auth/whoami HTTP/1.1\r\nHost: h\r\n{one}{one}\r\n".encode())
    reply.refused(401, "unauthorized", "more than one")


async def _log_in(stand: Stand, role: str) -> str:
    """Logs in as a person with this role in acme."""
    account = {"username": role, "password": "correct horse", "role": role}
    assert (await stand.ask("POST", "/v1/tenants/acme/accounts", json=account)).status in (201, 409)
    login = {"username": role, "password": "correct horse", "tenant": "acme"}
    return str((await stand.ask("POST", "/v1/auth/local/login", key=None, json=login)).json["key"])


async def _callers(stand: Stand) -> dict[str, list[tuple[str, str | None]]]:
    """By column of the table: who calls (with its role), and the key."""
    platform = [
        ("read", "no tenant", {"name": "of no tenant", "role": "read"}),
        ("admin", "no tenant", {"name": "of no tenant", "role": "admin"}),
    ]
    stateless = {
        (role, what): str((await stand.ask("POST", "/v1/auth/keys", json=body)).json["key"])
        for role, what, body in platform
    }
    own = {role: await stand.key("acme", role) for role in ("read", "write", "admin")}
    foreign = {role: await stand.key("other", role) for role in ("read", "write", "admin")}
    return {
        "no key": [("nobody", None)],
        **{
            role: [(f"{role} of acme", key), (f"a person, {role}", await _log_in(stand, role))]
            for role, key in own.items()
        },
        "other tenant": [
            *((f"{role} of other", key) for role, key in foreign.items()),
            *((f"{role} of {what}", key) for (role, what), key in stateless.items()),
        ],
        "god mode": [("god mode", ADMIN_KEY)],
    }


def _refusal(cells: dict[str, str], column: str) -> tuple[int, str]:
    """What the text above the table says of a cell that is no."""
    if column == "no key":
        return 401, "unauthorized"
    if cells["admin"] == "no":
        return 403, "admin_required"
    return 403, "tenant_access_denied" if column == "other tenant" else "insufficient_permissions"


async def test_every_route_for_every_caller_is_as_the_table_says(stand: Stand) -> None:
    """The table in docs/security.md, cell by cell: first what is refused, and that none of it got anywhere; then what
    is let in, which may go wrong for other reasons (there is no such key, the body is missing), but for no lack of
    rights."""
    callers = await _callers(stand)
    table = {(cells[0], cells[1].strip("`")): cells[2:] for cells in access_table.rows(SECURITY_PAGE)}
    assert table.keys() == {(route.method, route.path) for route in ALL_ROUTES}
    asked, let_in = 0, []
    before = len(stand.scheduler.seen) + len(stand.reconciler.seen)
    for route in ALL_ROUTES:
        cells = dict(zip(access_table.COLUMNS[2:], table[route.method, route.path], strict=True))
        for column, group in callers.items():
            for who, key in group:
                if cells[column] == "no":
                    reply = await stand.ask(route.method, _path(route), key=key)
                    assert (reply.status, reply.json["code"]) == _refusal(cells, column), (
                        route.method,
                        route.path,
                        who,
                    )
                    asked += 1
                elif cells[column] == "yes":
                    let_in.append((route, who, key))
    assert len(stand.scheduler.seen) + len(stand.reconciler.seen) == before, "a refused call reached a service"
    for route, who, key in let_in:
        ends_sessions = route.operation in ("refresh", "logout")
        if ends_sessions and who.startswith("a person, "):
            key = await _log_in(stand, who.removeprefix("a person, "))
        reply = await stand.ask(route.method, _path(route), key=key)
        assert reply.status not in (401, 403), (route.method, route.path, who, reply.body)
        asked += 1
    assert asked > 6 * len(ALL_ROUTES)


def test_the_module_is_made_from_the_table() -> None:
    assert access_table.MODULE.read_text() == access_table.module(SECURITY_PAGE), (
        "run: python scripts/access_table.py --write"
    )


def test_a_route_that_is_not_in_the_table_cannot_be_made() -> None:
    with pytest.raises(ValueError, match=r"who may call GET /v1/nowhere: give it a row .*/access_table.py --write"):
        Route("GET", "/v1/nowhere", _nothing, operation="x", tag="x", summary="x", answers={})


async def _nothing(call: Call) -> web.Response:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("| GET | `/x` | no | yes | no | yes | - | yes |", "a role may what the roles before it may"),
        ("| GET | `/x` | no | yes | yes | yes | - | no |", "god-mode key may call everything"),
        ("| GET | `/x/{tenant_id}` | no | yes | yes | yes | yes | yes |", "no key may reach another tenant"),
        ("| GET | `/x` | yes | no | no | no | - | yes |", "a role may what the roles before it may"),
        ("| GET | `/x` | no | yes | yes | yes | yes |", "needs 8 cells"),
        ("| GET | `/health` | yes | yes | yes | yes | - | yes |", "there twice"),
    ],
)
def test_rows_that_make_no_sense(row: str, message: str) -> None:
    head = SECURITY_PAGE.index("| GET | `/health`")
    with pytest.raises(ValueError, match=message):
        access_table.module(f"{SECURITY_PAGE[:head]}{row}\n{SECURITY_PAGE[head:]}")


@pytest.mark.parametrize("tenant", ["nowhere", "No-Such", "..", "a" * 64, "%00", "%ff", "%F0%9F%92%A9"])
@SHARED
async def test_god_mode_needs_a_tenant_that_is_there(shared_stand: Stand, tenant: str) -> None:
    target = f"GET /v1/tenants/{tenant}/executions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n"
    (await shared_stand.raw(target.encode())).refused(404, "tenant_not_found")


async def test_a_missing_tenant_is_not_told_from_a_foreign_one(stand: Stand) -> None:
    key = await stand.key("acme", "admin")
    for tenant in ("other", "nowhere"):
        reply = await stand.ask("GET", f"/v1/tenants/{tenant}/executions", key=key)
        reply.refused(403, "tenant_access_denied")
