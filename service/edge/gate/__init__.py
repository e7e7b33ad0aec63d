"""Every request comes in and goes out through the gate: keys, rate limits, CORS, routing, sending, metrics.

Most requests cost no query here: keys are cached and read again every few seconds, and the rate limit
is counted in memory, or with a Redis command that concurrent calls of a key share.
"""
