"""Workflows inside one program: no server, one SQLite file, nothing lost when the program dies.

Run it with ``python examples/embedded.py``. The task functions are ordinary ones: they see this module's variables.
"""

import asyncio
import logging
import tempfile
from pathlib import Path

import cloaca

ATTEMPTS: list[int] = []

with cloaca.WorkflowBuilder("orders") as orders:
    orders.description("Reads orders, checks them, asks for their prices, adds up.")

    @cloaca.task()
    def read(context):
        """Read the orders."""
        context.set("orders", [{"item": "tea", "count": 3}, {"item": "cups", "count": 2}])
        return context

    @cloaca.task(dependencies=[read], retry_attempts=3, retry_delay_ms=50, retry_jitter=False)
    def check(context):
        """Check them against a service that is away at first."""
        ATTEMPTS.append(len(ATTEMPTS) + 1)
        print(f"  check: attempt {ATTEMPTS[-1]}")
        if len(ATTEMPTS) < 3:
            raise ConnectionError("the service is away")
        context.set("checked", True)
        return context

    @cloaca.task(dependencies=[read])
    async def price(context):
        """Ask for the prices; this one is awaited, the original cannot do that."""
        await asyncio.sleep(0.01)
        context.set("prices", {"tea": 4.5, "cups": 7.0})
        return context

    @cloaca.task(dependencies=[check, price])
    def total(context):
        """Add up."""
        prices = context["prices"]
        context.set("total", sum(order["count"] * prices[order["item"]] for order in context["orders"]))
        return context


with cloaca.WorkflowBuilder("rescue") as rescue:
    rescue.description("A failure that a trigger rule handles.")

    @cloaca.task(retry_attempts=1)
    def fragile(context):
        """Fail."""
        raise RuntimeError("it broke")

    @cloaca.task(dependencies=[fragile], trigger_rules=cloaca.task_failed("fragile"))
    def mend(context):
        """Run only after a failure."""
        context.set("mended", True)
        return context


def main() -> None:
    """Runs both workflows."""
    logging.basicConfig(level=logging.ERROR)  # the attempts that fail here are meant to
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "orders.db"
        with cloaca.DefaultRunner(f"sqlite://{database}") as runner:
            print("orders: four tasks, one of them retried, one awaited")
            result = runner.execute("orders", cloaca.Context({"customer": 42}))
            print(f"  {result.status}, total {result.final_context['total']}, for {result.final_context['customer']}")

            print("rescue: a failure that is handled")
            result = runner.execute("rescue", cloaca.Context())
            print(f"  {result.status}, mended: {result.final_context.get('mended')}")

            print("many at once")
            ids = [runner.submit("rescue", cloaca.Context({"number": number})) for number in range(20)]
            print(f"  {sum(runner.result(each).status == 'Completed' for each in ids)} of {len(ids)} completed")


if __name__ == "__main__":
    main()
