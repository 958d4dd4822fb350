"""The client library of the original server, from PyPI, against ours."""
