"""From a claim to a worker process and back: what the engine assigns, run by pools of warm workers."""
