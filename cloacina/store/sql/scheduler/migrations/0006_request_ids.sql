-- What a request began is found by its id: GET /v1/requests/{request_id}.
CREATE INDEX executions_request ON executions (request_id);
