-- Executions and their tasks and events. Times are microseconds since the Unix epoch, UTC.
CREATE TABLE definitions (
    definition_id  TEXT PRIMARY KEY,
    tenant_id      TEXT NOT NULL,
    workflow_name  TEXT NOT NULL,
    package_id     TEXT NOT NULL,
    package_digest TEXT NOT NULL,
    body           BLOB NOT NULL
);
CREATE TABLE executions (
    execution_id    TEXT PRIMARY KEY,
    tenant_id       TEXT NOT NULL,
    workflow_name   TEXT NOT NULL,
    definition_id   TEXT NOT NULL,
    status          TEXT NOT NULL,
    reason          TEXT,
    error           TEXT,
    input           BLOB NOT NULL,
    output          BLOB,
    request_id      TEXT NOT NULL,
    traceparent     TEXT NOT NULL,
    trigger_origin  TEXT NOT NULL,
    idempotency_key TEXT,
    created_at      BIGINT NOT NULL,
    started_at      BIGINT,
    finished_at     BIGINT,
    cancelling      TEXT,
    sequence        BIGINT NOT NULL
);
CREATE INDEX executions_live ON executions (execution_id) WHERE finished_at IS NULL;
CREATE INDEX executions_newest ON executions (tenant_id, created_at, execution_id);
CREATE UNIQUE INDEX executions_idempotency ON executions (tenant_id, workflow_name, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE TABLE tasks (
    execution_id TEXT NOT NULL,
    task_index   INTEGER NOT NULL,
    task_name    TEXT NOT NULL,
    max_attempts INTEGER NOT NULL,
    status       TEXT NOT NULL,
    attempt      INTEGER NOT NULL,
    claim_id     BIGINT NOT NULL,
    executor_id  TEXT NOT NULL,
    lost_claims  INTEGER NOT NULL,
    deferred     INTEGER NOT NULL,
    retry_due    BIGINT,
    output       BLOB,
    error        TEXT,
    details      TEXT,
    reason       TEXT,
    created_at   BIGINT NOT NULL,
    ready_at     BIGINT,
    claimed_at   BIGINT,
    started_at   BIGINT,
    finished_at  BIGINT,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (execution_id, task_index)
) WITHOUT ROWID;
CREATE TABLE events (
    execution_id TEXT NOT NULL,
    sequence     BIGINT NOT NULL,
    event_type   TEXT NOT NULL,
    task_name    TEXT,
    at           BIGINT NOT NULL,
    data         TEXT,
    PRIMARY KEY (execution_id, sequence)
) WITHOUT ROWID;
CREATE TABLE executors (
    executor_id      TEXT PRIMARY KEY,
    slots            INTEGER NOT NULL,
    version          TEXT NOT NULL,
    lease_expires_at BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL
);
CREATE TABLE epochs (
    name  TEXT PRIMARY KEY,
    epoch BIGINT NOT NULL
);
INSERT INTO epochs (name, epoch) VALUES ('claims', 0);
