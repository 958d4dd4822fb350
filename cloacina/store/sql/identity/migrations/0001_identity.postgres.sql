-- Tenants and API keys. Times are microseconds since the Unix epoch, UTC.
-- The same tables in PostgreSQL's types. Keys compare byte by byte, as SQLite's do, whatever the database's locale.
CREATE TABLE tenants (
    name        TEXT COLLATE "C" PRIMARY KEY,
    description TEXT,
    created_at  BIGINT NOT NULL
);
INSERT INTO tenants (name, description, created_at) VALUES ('public', 'The tenant that exists from the start', 0);
CREATE TABLE api_keys (
    key_id     TEXT COLLATE "C" PRIMARY KEY,
    tenant_id  TEXT COLLATE "C",
    name       TEXT NOT NULL,
    key_hash   BYTEA NOT NULL UNIQUE,
    role       TEXT NOT NULL,
    is_admin   BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);
