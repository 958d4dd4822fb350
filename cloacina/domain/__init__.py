"""The engine's core: DAG, execution state machine, trigger rules, retries. Pure: no IO, no clock, no asyncio."""
