-- Schedules and what became of their firings. Times are microseconds since the Unix epoch, UTC.
CREATE TABLE schedules (
    schedule_id      TEXT PRIMARY KEY,
    tenant_id        TEXT NOT NULL,
    name             TEXT NOT NULL,
    kind             TEXT NOT NULL,
    workflows        TEXT NOT NULL,
    source           TEXT NOT NULL,
    package_id       TEXT NOT NULL,
    package_digest   TEXT NOT NULL,
    cron             TEXT,
    timezone         TEXT,
    poll_interval_ms BIGINT,
    allow_concurrent INTEGER NOT NULL,
    catch_up         TEXT NOT NULL,
    catch_up_cap     INTEGER NOT NULL,
    params           BLOB,
    paused_at        BIGINT,
    next_run_at      BIGINT,
    last_run_at      BIGINT,
    last_poll_at     BIGINT,
    last_outcome     TEXT,
    last_error       TEXT,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL
);
CREATE UNIQUE INDEX schedules_name ON schedules (tenant_id, name);
CREATE TABLE schedule_firings (
    firing_key    TEXT PRIMARY KEY,
    firing_id     TEXT NOT NULL,
    schedule_id   TEXT NOT NULL,
    workflow_name TEXT NOT NULL,
    execution_id  TEXT,
    outcome       TEXT NOT NULL,
    error         TEXT,
    context_hash  TEXT,
    scheduled_at  BIGINT NOT NULL,
    fired_at      BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX schedule_firings_newest ON schedule_firings (schedule_id, fired_at);
CREATE INDEX schedule_firings_execution ON schedule_firings (execution_id) WHERE execution_id IS NOT NULL;
