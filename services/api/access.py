"""Who may call a route: the roles, what a caller must reach, and the decision.

Which route asks for what is a row of the table in ``docs/security.md``. ``scripts/access_table.py --write`` makes
``access_table.py`` from it; a route without a row cannot be made.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from cloacina.errors import Forbidden

if TYPE_CHECKING:
    from services.api.call import Principal


class Level(IntEnum):
    """Roles of a key; each includes the ones before it."""

    READ = 1
    WRITE = 2
    ADMIN = 3

    @classmethod
    def of(cls, role: str) -> Level:
        """The level of a role's wire name."""
        return cls[role.upper()]


class Reach(StrEnum):
    """What a key must reach to call a route."""

    PUBLIC = "public"
    """No key is asked for."""
    ANY = "any"
    """Any valid key."""
    TENANT = "tenant"
    """A key of the tenant in the path."""
    PLATFORM = "platform"
    """A god-mode key."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a route. A god-mode key may call all of them.

    Args:
        reach: see `Reach`.
        level: lowest role that may.
    """

    reach: Reach
    level: Level = Level.READ

    def describe(self) -> str:
        """In words, for the documentation."""
        if self.reach is Reach.PUBLIC:
            return "no key"
        if self.reach is Reach.PLATFORM:
            return "god-mode key"
        role = self.level.name.lower()
        return f"{role} key of the tenant" if self.reach is Reach.TENANT else f"any key ({role})"


PUBLIC = Access(Reach.PUBLIC)
ANY_READ = Access(Reach.ANY, Level.READ)
ANY_WRITE = Access(Reach.ANY, Level.WRITE)
ANY_ADMIN = Access(Reach.ANY, Level.ADMIN)
TENANT_READ = Access(Reach.TENANT, Level.READ)
TENANT_WRITE = Access(Reach.TENANT, Level.WRITE)
TENANT_ADMIN = Access(Reach.TENANT, Level.ADMIN)
PLATFORM = Access(Reach.PLATFORM, Level.ADMIN)


def authorize(access: Access, caller: Principal, tenant_id: str | None) -> None:
    """Decides. The tenant is judged before the role: a key learns nothing of other tenants.

    Args:
        access: what the route asks for.
        caller: who calls.
        tenant_id: the tenant in the path, if the route has one.

    Raises:
        Forbidden: admin_required, tenant_access_denied or insufficient_permissions.
    """
    if caller.is_admin:
        return
    if access.reach is Reach.PLATFORM:
        raise Forbidden("this needs a god-mode key", code="admin_required")
    if access.reach is Reach.TENANT and (caller.tenant_id is None or caller.tenant_id != tenant_id):
        raise Forbidden("this key has no access to this tenant", code="tenant_access_denied")
    if caller.level < access.level:
        raise Forbidden(
            f"this needs a key with the role {access.level.name.lower()}; this one has {caller.role}",
            code="insufficient_permissions",
        )
