-- Which scheduler process each unfinished execution belongs to. Times are microseconds since the Unix epoch, UTC.
-- An owner joins under an epoch that nobody had before, and its executions name that epoch. The epoch 'schedules' says
-- which owner fires the schedules. An executor has a lease with each scheduler it is connected to.
CREATE TABLE owners (
    owner_id         TEXT COLLATE "C" PRIMARY KEY,
    epoch            BIGINT NOT NULL UNIQUE,
    target           TEXT NOT NULL,
    joined_at        BIGINT NOT NULL,
    lease_expires_at BIGINT NOT NULL
);
INSERT INTO epochs (name, epoch) VALUES ('schedules', 0);
ALTER TABLE executions ADD COLUMN owner BIGINT NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN adoption BIGINT NOT NULL DEFAULT 0;
DROP INDEX executions_live;
CREATE INDEX executions_live ON executions (owner, adoption) WHERE finished_at IS NULL;
DROP TABLE executors;
CREATE TABLE executors (
    owner            BIGINT NOT NULL,
    executor_id      TEXT COLLATE "C" NOT NULL,
    slots            INTEGER NOT NULL,
    version          TEXT NOT NULL,
    lease_expires_at BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    PRIMARY KEY (owner, executor_id)
);
