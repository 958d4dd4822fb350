-- Tenants of an embedded runner: each a schema and a user of its own. Names and passwords cannot be parameters of such
-- statements, so the server itself quotes them: each query returns the statement to run, all in one transaction.

-- name: patience
-- Another session may hold what is to be dropped: say so soon instead of waiting for it.
SELECT set_config('lock_timeout', '10s', true);

-- name: create_schema
SELECT format('CREATE SCHEMA %I', $1::text);

-- name: create_user
SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD %L', $1::text, $2::text);

-- name: grant_schema
SELECT format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', $1::text, $2::text);

-- name: grant_tables
-- Tables that the administrator's own runner makes in the schema are the tenant's to use as well.
SELECT format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT ALL ON TABLES TO %I', $1::text, $2::text);

-- name: grant_sequences
SELECT format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT ALL ON SEQUENCES TO %I', $1::text, $2::text);

-- name: default_schema
-- So that any client that logs in as this user, psql too, sees the tenant's tables first.
SELECT format('ALTER ROLE %2$I IN DATABASE %3$I SET search_path TO %1$I', $1::text, $2::text, current_database());

-- name: drop_schema
SELECT format('DROP SCHEMA IF EXISTS %I CASCADE', $1::text);

-- name: drop_user
SELECT format('DROP ROLE IF EXISTS %I', $1::text);
