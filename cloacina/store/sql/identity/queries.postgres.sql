-- What PostgreSQL says in other words.

-- name: request_allowance
SELECT coalesce((SELECT due FROM request_allowances WHERE tenant_id = ?), 0),
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
