-- Secrets of tenants, each sealed under a data key of its own, which is wrapped by a key that the database never sees.
-- Times are microseconds since the Unix epoch, UTC.
CREATE TABLE secrets (
    secret_id   TEXT PRIMARY KEY,
    tenant_id   TEXT NOT NULL,
    name        TEXT NOT NULL,
    field_names TEXT NOT NULL,
    ciphertext  BLOB NOT NULL,
    data_key    BLOB NOT NULL,
    kek_id      TEXT NOT NULL,
    version     BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL
);
CREATE UNIQUE INDEX secrets_name ON secrets (tenant_id, name);
