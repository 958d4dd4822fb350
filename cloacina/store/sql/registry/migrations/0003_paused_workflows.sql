-- Workflows whose new executions are refused. A pause belongs to a name, not to a version, and ends by a resume only.
-- Times are microseconds since the Unix epoch, UTC.
CREATE TABLE paused_workflows (
    tenant_id     TEXT NOT NULL,
    workflow_name TEXT NOT NULL,
    paused_at     BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, workflow_name)
);
