"""The code that depends on uvicorn: the listening process, its workers and its connections.

`serving` starts uvicorn, in one process or with worker processes. `accepting` shares the connections
between the workers. `protocol` is one connection: uvicorn's own HTTP protocol, with limits on size and
time. `refusals` has the checks of a head, and the responses to requests that the application does not
see. uvicorn's internals may change with any minor release, so pyproject.toml bounds its version.
"""
