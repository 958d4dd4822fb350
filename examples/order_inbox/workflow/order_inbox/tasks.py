"""A workflow that a polled trigger starts: one execution for each order that lies in a folder.

Put a JSON file such as {"order": 17, "items": [{"price": 4.5, "count": 2}]} into the folder, which is
/tmp/cloacina-orders.
"""

from __future__ import annotations

import json
from pathlib import Path

import cloaca

INBOX = Path("/tmp/cloacina-orders")  # noqa: S108 - an example must work anywhere


@cloaca.task()
def read_order(context):
    """what: Reads the order. why: a file that is no order fails here, with its name in the error."""
    content = json.loads(Path(context["path"]).read_text())
    context.set("order", content["order"])
    context.set("total", sum(item["price"] * item["count"] for item in content["items"]))
    return context


@cloaca.task(dependencies=[read_order])
def file_order(context):
    """what: Takes the file out of the inbox. why: last, so that an order whose handling failed is still there."""
    path = Path(context["path"])
    path.rename(path.with_suffix(".done"))
    context.set("filed", True)
    return context


@cloaca.trigger(on="order_inbox", poll_interval="1s")
def waiting_order():
    """Names the oldest order. While it is being handled the same answer starts nothing more."""
    waiting = sorted(INBOX.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not waiting:
        return cloaca.TriggerResult.skip()
    return cloaca.TriggerResult.fire(cloaca.Context({"path": str(waiting[0])}))
