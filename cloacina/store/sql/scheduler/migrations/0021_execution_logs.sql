-- Log lines of executions: chunks of some lines each, JSON objects ended by line breaks, numbered from 1 within their
-- execution. `total` is the bytes of all chunks up to this one, `batch` tells a chunk that is sent again.
CREATE TABLE execution_logs (
    execution_id TEXT NOT NULL,
    chunk        BIGINT NOT NULL,
    tenant_id    TEXT NOT NULL,
    batch        TEXT NOT NULL,
    total        BIGINT NOT NULL,
    lines        TEXT NOT NULL,
    PRIMARY KEY (execution_id, chunk)
);
