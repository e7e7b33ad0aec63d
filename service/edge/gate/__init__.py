"""The first and the last that every request meets: keys, rate limits, CORS, routing, sending, metrics.

A request costs no query here as a rule: keys are cached and read again every few seconds, and the rate
limit is counted in memory or with a Redis command that the calls of a key share.
"""
