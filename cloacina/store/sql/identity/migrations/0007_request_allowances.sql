-- When each tenant that has a limit has used up what it may send, if it had sent it evenly: microseconds since the epoch.
CREATE TABLE request_allowances (
    tenant_id TEXT PRIMARY KEY,
    due       INTEGER NOT NULL
) WITHOUT ROWID;
