"""The audit log: who changed what may be done here. Its lines have the target ``services.api.audit``, so that a
directive (``CLOACINA_LOG=services.api.audit=info``) or a query selects them and nothing else.
"""

from __future__ import annotations

import logging

from services.api.call import Principal

log = logging.getLogger(__name__)


def record(action: str, actor: Principal | None, **fields: object) -> None:
    """Writes a line. The request id and the tenant are in it by the scope.

    Args:
        action: what was done, in the past tense; one of the lines in docs/services/api.md.
        actor: who did it; ``None`` where it is the one who logs in.
        fields: what it was done to. Never a key, a ticket or a password.
    """
    who = {} if actor is None else {"key_id": actor.key_id, "key_name": actor.name}
    log.info(action, extra={**fields, **who})
