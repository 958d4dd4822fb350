"""Whether the second wall between tenants, PostgreSQL's row-level security, stands for the user of a store."""

from __future__ import annotations

import logging

from cloacina.store.database import Database

log = logging.getLogger(__name__)


async def warn_where_open(database: Database) -> None:
    """Says so once, at the start of a service, when its database user is one whom row-level security does not hold.

    Args:
        database: an opened store with rows of several tenants.

    Raises:
        StoreUnavailable: the database cannot be read.
    """
    user = await database.unheld_user()
    if user is not None:
        log.warning(
            "row-level security does not hold this database user: only the tenant in every query keeps tenants apart. "
            "Connect as an ordinary role that owns the database, without SUPERUSER and BYPASSRLS",
            extra={"database_user": user},
        )
