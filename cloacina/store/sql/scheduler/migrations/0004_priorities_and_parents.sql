-- Priority of an execution, the task that started it where that was not a client, and how many instances a task has.
ALTER TABLE executions ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN parent_execution_id TEXT;
ALTER TABLE executions ADD COLUMN parent_task TEXT;
ALTER TABLE executions ADD COLUMN parent_claim_id BIGINT;
ALTER TABLE executions ADD COLUMN depth INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN instances INTEGER;
