-- Schedules and what became of their firings. Times are microseconds since the Unix epoch, UTC.
-- The same tables in PostgreSQL's types. Keys compare byte by byte, as SQLite's do, whatever the database's locale.
CREATE TABLE schedules (
    schedule_id      TEXT COLLATE "C" PRIMARY KEY,
    tenant_id        TEXT COLLATE "C" NOT NULL,
    name             TEXT COLLATE "C" NOT NULL,
    kind             TEXT NOT NULL,
    workflows        TEXT NOT NULL,
    source           TEXT NOT NULL,
    package_id       TEXT NOT NULL,
    package_digest   TEXT NOT NULL,
    cron             TEXT,
    timezone         TEXT,
    poll_interval_ms BIGINT,
    allow_concurrent BOOLEAN NOT NULL,
    catch_up         TEXT NOT NULL,
    catch_up_cap     INTEGER NOT NULL,
    params           BYTEA,
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
    firing_key    TEXT COLLATE "C" PRIMARY KEY,
    firing_id     TEXT NOT NULL,
    schedule_id   TEXT COLLATE "C" NOT NULL,
    workflow_name TEXT NOT NULL,
    execution_id  TEXT COLLATE "C",
    outcome       TEXT NOT NULL,
    error         TEXT,
    context_hash  TEXT,
    scheduled_at  BIGINT NOT NULL,
    fired_at      BIGINT NOT NULL
);
CREATE INDEX schedule_firings_newest ON schedule_firings (schedule_id, fired_at);
CREATE INDEX schedule_firings_execution ON schedule_firings (execution_id) WHERE execution_id IS NOT NULL;
