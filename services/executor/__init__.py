"""The executor: offers slots to the scheduler and runs what it is given in worker processes. Owns nothing durable."""
