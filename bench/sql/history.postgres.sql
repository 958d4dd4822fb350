-- Copies of one finished execution; see history.sql.

-- name: copy_executions
WITH given (first, last, base, spread, template) AS (VALUES (?::bigint, ?::bigint, ?::bigint, ?::bigint, ?::text)),
times AS (SELECT n, base + n * spread AS at, template FROM given, generate_series(given.first, given.last) AS n),
ids AS (SELECT at, template, lpad(to_hex(at / 65536000), 8, '0') || '-' || lpad(to_hex(at / 1000 % 65536), 4, '0') AS
    head, lpad(to_hex(n), 12, '0') AS tail FROM times)
INSERT INTO executions (execution_id, tenant_id, workflow_name, definition_id, status, reason, error, input, output,
    request_id, traceparent, trigger_origin, created_at, started_at, finished_at, sequence)
SELECT head || '-7000-8000-' || tail, tenant_id, workflow_name, definition_id, status, reason, error, input, output,
    head || '-4000-9000-' || tail, traceparent, trigger_origin, at, started_at - created_at + at,
    finished_at - created_at + at, sequence
FROM ids JOIN executions ON execution_id = template;

-- name: copy_tasks
WITH given (first, last, base, spread, template) AS (VALUES (?::bigint, ?::bigint, ?::bigint, ?::bigint, ?::text)),
times AS (SELECT n, base + n * spread AS at, template FROM given, generate_series(given.first, given.last) AS n),
ids AS (SELECT at, template, lpad(to_hex(at / 65536000), 8, '0') || '-' || lpad(to_hex(at / 1000 % 65536), 4, '0') AS
    head, lpad(to_hex(n), 12, '0') AS tail FROM times)
INSERT INTO tasks (execution_id, task_index, task_name, max_attempts, status, attempt, claim_id, executor_id,
    lost_claims, deferred, output, error, details, reason, created_at, ready_at, claimed_at, started_at, finished_at,
    updated_at)
SELECT head || '-7000-8000-' || tail, task_index, task_name, max_attempts, t.status, attempt, claim_id, executor_id,
    lost_claims, deferred, t.output, t.error, details, t.reason, at, ready_at - e.created_at + at,
    claimed_at - e.created_at + at, t.started_at - e.created_at + at, t.finished_at - e.created_at + at,
    updated_at - e.created_at + at
FROM ids JOIN executions e ON e.execution_id = template JOIN tasks t ON t.execution_id = template;

-- name: copy_events
WITH given (first, last, base, spread, template) AS (VALUES (?::bigint, ?::bigint, ?::bigint, ?::bigint, ?::text)),
times AS (SELECT n, base + n * spread AS at, template FROM given, generate_series(given.first, given.last) AS n),
ids AS (SELECT at, template, lpad(to_hex(at / 65536000), 8, '0') || '-' || lpad(to_hex(at / 1000 % 65536), 4, '0') AS
    head, lpad(to_hex(n), 12, '0') AS tail FROM times)
INSERT INTO events (execution_id, sequence, event_type, task_name, at, data)
SELECT head || '-7000-8000-' || tail, v.sequence, event_type, task_name, v.at - e.created_at + ids.at, data
FROM ids JOIN executions e ON e.execution_id = template JOIN events v ON v.execution_id = template;
