-- Copies of one finished execution. Parameters of each: first and last number, time of number 0 (microseconds),
-- microseconds between two, the execution to copy. An id is a UUIDv7 of its time, with the number in place of chance.

-- name: copy_executions
WITH RECURSIVE given (first, last, base, spread, template) AS (VALUES (?, ?, ?, ?, ?)),
times (n, at) AS (
    SELECT first, base + first * spread FROM given
    UNION ALL
    SELECT n + 1, at + spread FROM times, given WHERE n < last
),
ids AS (SELECT at, printf('%08x-%04x', at / 65536000, at / 1000 % 65536) AS head, printf('%012x', n) AS tail FROM times)
INSERT INTO executions (execution_id, tenant_id, workflow_name, definition_id, status, reason, error, input, output,
    request_id, traceparent, trigger_origin, created_at, started_at, finished_at, sequence)
SELECT head || '-7000-8000-' || tail, tenant_id, workflow_name, definition_id, status, reason, error, input, output,
    head || '-4000-9000-' || tail, traceparent, trigger_origin, at, started_at - created_at + at,
    finished_at - created_at + at, sequence
FROM ids CROSS JOIN given CROSS JOIN executions WHERE execution_id = template;

-- name: copy_tasks
WITH RECURSIVE given (first, last, base, spread, template) AS (VALUES (?, ?, ?, ?, ?)),
times (n, at) AS (
    SELECT first, base + first * spread FROM given
    UNION ALL
    SELECT n + 1, at + spread FROM times, given WHERE n < last
),
ids AS (SELECT at, printf('%08x-%04x', at / 65536000, at / 1000 % 65536) AS head, printf('%012x', n) AS tail FROM times)
INSERT INTO tasks (execution_id, task_index, task_name, max_attempts, status, attempt, claim_id, executor_id,
    lost_claims, deferred, output, error, details, reason, created_at, ready_at, claimed_at, started_at, finished_at,
    updated_at)
SELECT head || '-7000-8000-' || tail, task_index, task_name, max_attempts, t.status, attempt, claim_id, executor_id,
    lost_claims, deferred, t.output, t.error, details, t.reason, at, ready_at - e.created_at + at,
    claimed_at - e.created_at + at, t.started_at - e.created_at + at, t.finished_at - e.created_at + at,
    updated_at - e.created_at + at
FROM ids CROSS JOIN given CROSS JOIN executions e CROSS JOIN tasks t
WHERE e.execution_id = template AND t.execution_id = template;

-- name: copy_events
WITH RECURSIVE given (first, last, base, spread, template) AS (VALUES (?, ?, ?, ?, ?)),
times (n, at) AS (
    SELECT first, base + first * spread FROM given
    UNION ALL
    SELECT n + 1, at + spread FROM times, given WHERE n < last
),
ids AS (SELECT at, printf('%08x-%04x', at / 65536000, at / 1000 % 65536) AS head, printf('%012x', n) AS tail FROM times)
INSERT INTO events (execution_id, sequence, event_type, task_name, at, data)
SELECT head || '-7000-8000-' || tail, v.sequence, event_type, task_name, v.at - e.created_at + ids.at, data
FROM ids CROSS JOIN given CROSS JOIN executions e CROSS JOIN events v
WHERE e.execution_id = template AND v.execution_id = template;
