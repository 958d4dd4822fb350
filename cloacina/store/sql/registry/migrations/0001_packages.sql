-- Packages and their archives. Times are microseconds since the Unix epoch, UTC.
CREATE TABLE packages (
    package_id    TEXT PRIMARY KEY,
    tenant_id     TEXT NOT NULL,
    package_name  TEXT NOT NULL,
    version       TEXT NOT NULL,
    digest        TEXT NOT NULL,
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
    digest TEXT NOT NULL,
    part   INTEGER NOT NULL,
    data   BLOB NOT NULL,
    PRIMARY KEY (digest, part)
) WITHOUT ROWID;
