"""The embedded runner keeps no secrets, and says so."""

from __future__ import annotations

import cloaca


def test_a_task_that_asks_for_a_secret_is_told_that_there_are_none() -> None:
    with cloaca.WorkflowBuilder("asks"):

        @cloaca.workflow_secrets("db")
        @cloaca.task(id="ask", retry_attempts=1)
        def ask(context):
            try:
                context.secret("db")
            except RuntimeError as told:
                context.set("told", str(told))
            return context

    with cloaca.DefaultRunner(":memory:") as runner:
        assert "no secret resolver is configured" in runner.execute("asks", cloaca.Context()).final_context["told"]
