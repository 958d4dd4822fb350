-- Secrets of tenants, each sealed under a data key of its own, which is wrapped by a key that the database never sees.
-- Times are microseconds since the Unix epoch, UTC.
-- The same table in PostgreSQL's types. Keys compare byte by byte, as SQLite's do, whatever the database's locale.
CREATE TABLE secrets (
    secret_id   TEXT COLLATE "C" PRIMARY KEY,
    tenant_id   TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    field_names TEXT NOT NULL,
    ciphertext  BYTEA NOT NULL,
    data_key    BYTEA NOT NULL,
    kek_id      TEXT COLLATE "C" NOT NULL,
    version     BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL
);
CREATE UNIQUE INDEX secrets_name ON secrets (tenant_id, name);
