-- Queries of the scheduler's store. `?` are parameters, in the order the caller gives them.

-- name: insert_definition
-- A definition is immutable: the same id again is the same content.
INSERT INTO definitions (definition_id, tenant_id, workflow_name, package_id, package_digest, body)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (definition_id) DO NOTHING;

-- name: definition
-- One definition by id.
SELECT definition_id, tenant_id, workflow_name, package_id, package_digest, body
FROM definitions WHERE definition_id = ?;

-- name: insert_execution
INSERT INTO executions (execution_id, tenant_id, workflow_name, definition_id, status, reason, error, input, output,
    request_id, traceparent, trigger_origin, idempotency_key, created_at, started_at, finished_at, cancelling, sequence)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: update_execution
-- What changes of an execution; the id comes last.
UPDATE executions SET status = ?, reason = ?, error = ?, output = ?, started_at = ?, finished_at = ?, cancelling = ?,
    sequence = ?
WHERE execution_id = ?;

-- name: insert_task
INSERT INTO tasks (execution_id, task_index, task_name, max_attempts, status, attempt, claim_id, executor_id,
    lost_claims, deferred, retry_due, output, error, details, reason, created_at, ready_at, claimed_at, started_at,
    finished_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: update_task
-- What changes of a task; its key comes last.
UPDATE tasks SET status = ?, attempt = ?, claim_id = ?, executor_id = ?, lost_claims = ?, deferred = ?, retry_due = ?,
    output = ?, error = ?, details = ?, reason = ?, ready_at = ?, claimed_at = ?, started_at = ?, finished_at = ?,
    updated_at = ?
WHERE execution_id = ? AND task_index = ?;

-- name: insert_event
INSERT INTO events (execution_id, sequence, event_type, task_name, at, data) VALUES (?, ?, ?, ?, ?, ?);

-- name: upsert_executor
-- An executor's lease, renewed.
INSERT INTO executors (executor_id, slots, version, lease_expires_at, updated_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (executor_id) DO UPDATE SET slots = excluded.slots, version = excluded.version,
    lease_expires_at = excluded.lease_expires_at, updated_at = excluded.updated_at;

-- name: delete_executor
DELETE FROM executors WHERE executor_id = ?;

-- name: executors
SELECT executor_id, slots, version, lease_expires_at, updated_at FROM executors;

-- name: raise_epoch
UPDATE epochs SET epoch = epoch + 1 WHERE name = ?;

-- name: epoch
SELECT epoch FROM epochs WHERE name = ?;

-- name: live_executions
-- What has not ended; the partial index holds nothing else.
SELECT execution_id, tenant_id, workflow_name, definition_id, status, reason, error, input, output, request_id,
    traceparent, trigger_origin, idempotency_key, created_at, started_at, finished_at, cancelling, sequence
FROM executions WHERE finished_at IS NULL ORDER BY execution_id;

-- name: live_tasks
SELECT t.execution_id, t.task_index, t.task_name, t.max_attempts, t.status, t.attempt, t.claim_id, t.executor_id,
    t.lost_claims, t.deferred, t.retry_due, t.output, t.error, t.details, t.reason, t.created_at, t.ready_at,
    t.claimed_at, t.started_at, t.finished_at, t.updated_at
FROM executions e JOIN tasks t ON t.execution_id = e.execution_id
WHERE e.finished_at IS NULL ORDER BY t.execution_id, t.task_index;

-- name: execution
SELECT execution_id, tenant_id, workflow_name, definition_id, status, reason, error, input, output, request_id,
    traceparent, trigger_origin, idempotency_key, created_at, started_at, finished_at, cancelling, sequence
FROM executions WHERE execution_id = ? AND tenant_id = ?;

-- name: execution_by_key
SELECT execution_id FROM executions WHERE tenant_id = ? AND workflow_name = ? AND idempotency_key = ?;

-- name: list_executions
-- Newest first. An empty filter matches all; the cursor is (created_at, execution_id) of the last row seen.
SELECT execution_id, tenant_id, workflow_name, definition_id, status, reason, error, request_id, traceparent,
    trigger_origin, created_at, started_at, finished_at
FROM executions
WHERE tenant_id = ? AND (? = '' OR status = ?) AND (? = '' OR workflow_name = ?)
    AND (created_at, execution_id) < (?, ?)
ORDER BY created_at DESC, execution_id DESC LIMIT ? OFFSET ?;

-- name: count_executions
SELECT count(*) FROM executions
WHERE tenant_id = ? AND (? = '' OR status = ?) AND (? = '' OR workflow_name = ?);

-- name: list_tasks
SELECT t.execution_id, t.task_index, t.task_name, t.max_attempts, t.status, t.attempt, t.claim_id, t.executor_id,
    t.lost_claims, t.deferred, t.retry_due, t.output, t.error, t.details, t.reason, t.created_at, t.ready_at,
    t.claimed_at, t.started_at, t.finished_at, t.updated_at
FROM executions e JOIN tasks t ON t.execution_id = e.execution_id
WHERE e.execution_id = ? AND e.tenant_id = ? ORDER BY t.task_index;

-- name: list_events
SELECT v.execution_id, v.sequence, v.event_type, v.task_name, v.at, v.data
FROM executions e JOIN events v ON v.execution_id = e.execution_id
WHERE e.execution_id = ? AND e.tenant_id = ? AND v.sequence > ? ORDER BY v.sequence LIMIT ?;

-- name: task_claim
SELECT claim_id FROM tasks WHERE execution_id = ? AND task_name = ?;
