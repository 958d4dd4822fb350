-- Executions and their tasks and events. Times are microseconds since the Unix epoch, UTC.
-- The same tables in PostgreSQL's types. Keys compare byte by byte, as SQLite's do, whatever the database's locale.
-- Executions and tasks change a few times each: pages keep room, so that a change stays on its page.
CREATE TABLE definitions (
    definition_id  TEXT COLLATE "C" PRIMARY KEY,
    tenant_id      TEXT NOT NULL,
    workflow_name  TEXT NOT NULL,
    package_id     TEXT NOT NULL,
    package_digest TEXT NOT NULL,
    body           BYTEA NOT NULL
);
CREATE TABLE executions (
    execution_id    TEXT COLLATE "C" PRIMARY KEY,
    tenant_id       TEXT COLLATE "C" NOT NULL,
    workflow_name   TEXT COLLATE "C" NOT NULL,
    definition_id   TEXT NOT NULL,
    status          TEXT NOT NULL,
    reason          TEXT,
    error           TEXT,
    input           BYTEA NOT NULL,
    output          BYTEA,
    request_id      TEXT NOT NULL,
    traceparent     TEXT NOT NULL,
    trigger_origin  TEXT NOT NULL,
    idempotency_key TEXT COLLATE "C",
    created_at      BIGINT NOT NULL,
    started_at      BIGINT,
    finished_at     BIGINT,
    cancelling      TEXT,
    sequence        BIGINT NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX executions_live ON executions (execution_id) WHERE finished_at IS NULL;
CREATE INDEX executions_newest ON executions (tenant_id, created_at, execution_id);
CREATE UNIQUE INDEX executions_idempotency ON executions (tenant_id, workflow_name, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE TABLE tasks (
    execution_id TEXT COLLATE "C" NOT NULL,
    task_index   INTEGER NOT NULL,
    task_name    TEXT COLLATE "C" NOT NULL,
    max_attempts INTEGER NOT NULL,
    status       TEXT NOT NULL,
    attempt      INTEGER NOT NULL,
    claim_id     BIGINT NOT NULL,
    executor_id  TEXT NOT NULL,
    lost_claims  INTEGER NOT NULL,
    deferred     BOOLEAN NOT NULL,
    retry_due    BIGINT,
    output       BYTEA,
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
) WITH (fillfactor = 80);
CREATE TABLE events (
    execution_id TEXT COLLATE "C" NOT NULL,
    sequence     BIGINT NOT NULL,
    event_type   TEXT NOT NULL,
    task_name    TEXT,
    at           BIGINT NOT NULL,
    data         TEXT,
    PRIMARY KEY (execution_id, sequence)
);
CREATE TABLE executors (
    executor_id      TEXT COLLATE "C" PRIMARY KEY,
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
