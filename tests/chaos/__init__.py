"""The fault battery: a system under load, faults drawn from a seed, and a checker that knows only what was said."""
