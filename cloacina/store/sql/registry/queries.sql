-- Queries of the reconciler's store.

-- name: insert_package
INSERT INTO packages (package_id, tenant_id, package_name, version, digest, size_bytes, workflow_name, description,
    build_status, build_error, contents, created_at, deleted_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_artifact_part
-- The same digest is the same content.
INSERT INTO artifacts (digest, part, data) VALUES (?, ?, ?) ON CONFLICT (digest, part) DO NOTHING;

-- name: set_build
UPDATE packages SET build_status = ?, build_error = ?, contents = ? WHERE package_id = ?;

-- name: mark_deleted
UPDATE packages SET deleted_at = ? WHERE package_id = ? AND deleted_at IS NULL;

-- name: packages
-- Every package that is not deleted, oldest first.
SELECT package_id, tenant_id, package_name, version, digest, size_bytes, workflow_name, description, build_status,
    build_error, contents, created_at, deleted_at
FROM packages WHERE deleted_at IS NULL ORDER BY created_at, package_id;

-- name: artifact_part
SELECT data FROM artifacts WHERE digest = ? AND part = ?;
