"""Worker processes on an existing cluster instead of the executor's machine: its backend ``dask``."""
