"""Everything that knows uvicorn: the listening process, its workers and its connections.

`serving` starts uvicorn, in one process or with worker processes. `accepting` shares the connections
between the workers. `protocol` is one connection: uvicorn's own HTTP protocol, with limits on size and
time. `heads` judges the head of a request, and `refusals` answers a caller that the application does
not serve. uvicorn's internals may change with any minor release, so pyproject.toml bounds its version.
"""
