-- Tenants and API keys. Times are microseconds since the Unix epoch, UTC.
CREATE TABLE tenants (
    name        TEXT PRIMARY KEY,
    description TEXT,
    created_at  BIGINT NOT NULL
);
INSERT INTO tenants (name, description, created_at) VALUES ('public', 'The tenant that exists from the start', 0);
CREATE TABLE api_keys (
    key_id     TEXT PRIMARY KEY,
    tenant_id  TEXT,
    name       TEXT NOT NULL,
    key_hash   BLOB NOT NULL UNIQUE,
    role       TEXT NOT NULL,
    is_admin   INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);
