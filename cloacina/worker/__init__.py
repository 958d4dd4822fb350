"""The process that runs user code, the fork server it comes from, and the other end of both.

One worker serves one package of one tenant. `client` is the side of the executor; `forkserver` and `process` run in
processes of their own and import as little as they can.
"""
