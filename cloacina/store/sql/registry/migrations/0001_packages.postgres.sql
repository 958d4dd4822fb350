-- Packages and their archives. Times are microseconds since the Unix epoch, UTC.
-- The same tables in PostgreSQL's types. Keys compare byte by byte, as SQLite's do, whatever the database's locale.
CREATE TABLE packages (
    package_id    TEXT COLLATE "C" PRIMARY KEY,
    tenant_id     TEXT COLLATE "C" NOT NULL,
    package_name  TEXT COLLATE "C" NOT NULL,
    version       TEXT COLLATE "C" NOT NULL,
    digest        TEXT COLLATE "C" NOT NULL,
    size_bytes    BIGINT NOT NULL,
    workflow_name TEXT NOT NULL,
    description   TEXT NOT NULL,
    build_status  TEXT NOT NULL,
    build_error   TEXT NOT NULL,
    contents      TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    deleted_at    BIGINT
);
CREATE UNIQUE INDEX packages_version ON packages (tenant_id, package_name, version) WHERE deleted_at IS NULL;
CREATE TABLE artifacts (
    digest TEXT COLLATE "C" NOT NULL,
    part   INTEGER NOT NULL,
    data   BYTEA NOT NULL,
    PRIMARY KEY (digest, part)
);
