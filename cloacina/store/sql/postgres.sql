-- What the PostgreSQL driver asks by itself, the same for every store.

-- name: schema_exists
SELECT to_regnamespace($1) IS NOT NULL;

-- name: create_schema
-- A name cannot be a parameter; it is one of ours.
CREATE SCHEMA {schema};

-- name: lock_migrations
-- Held until the end of the transaction: of processes that start at once one migrates, and the others find it done.
SELECT pg_advisory_xact_lock($1, $2);

-- name: unlimited
-- A migration takes the time it takes.
SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '60s', true);

-- name: create_version
CREATE TABLE IF NOT EXISTS schema_version (
    version    INTEGER PRIMARY KEY,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- name: version
SELECT coalesce(max(version), 0) FROM schema_version;

-- name: add_version
INSERT INTO schema_version (version) VALUES ($1);

-- name: take_lock
-- Belongs to the session: it ends with the connection, however that ends. Waits as long as lock_timeout.
SELECT pg_advisory_lock($1, $2);

-- name: take_shared_lock
-- The same for one of many.
SELECT pg_advisory_lock_shared($1, $2);

-- name: lock_holder
-- Numbers are shown unsigned there.
SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.classid = $1::bigint::oid AND l.objid = $2::bigint::oid;

-- name: see_tenant
-- Until the end of the transaction the session sees the rows of one tenant. No tenant is called '*'.
SELECT set_config('cloacina.tenant_id', $1, true);

-- name: unheld_user
-- The session's user, if it is one whom no policy holds.
SELECT rolname FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls);
