-- Pages of executions by workflow, and of those that ended badly, are found without a look at all others. What completes
-- is in no index of statuses: it would pay for a question that the newest executions answer.
CREATE INDEX executions_of_workflow ON executions (tenant_id, workflow_name, created_at, execution_id);
CREATE INDEX executions_ended_badly ON executions (tenant_id, status, created_at, execution_id)
    WHERE status IN ('Failed', 'Cancelled');
