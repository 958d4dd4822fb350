-- Named instances: params bound to a workflow, perhaps with a schedule. Times are microseconds since the Unix epoch, UTC.
-- The instance's id is its schedule's. Without a cron expression next_run_at stays NULL and nothing ever starts it.
CREATE TABLE instances (
    instance_id     TEXT PRIMARY KEY,
    tenant_id       TEXT NOT NULL,
    workflow_name   TEXT NOT NULL,
    instance_name   TEXT NOT NULL,
    params          BLOB NOT NULL,
    cron_expression TEXT,
    timezone        TEXT NOT NULL,
    enabled         INTEGER NOT NULL,
    paused          INTEGER NOT NULL,
    next_run_at     BIGINT,
    last_run_at     BIGINT,
    created_at      BIGINT NOT NULL
);
CREATE UNIQUE INDEX instances_name ON instances (tenant_id, workflow_name, instance_name);
CREATE INDEX instances_listed ON instances (tenant_id, workflow_name, created_at, instance_id);
