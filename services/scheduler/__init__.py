"""The scheduler owns executions: it decides what runs, and remembers everything."""
