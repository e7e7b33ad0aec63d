"""Clients and models of events that generators make from the published descriptions, at work on the service.

Each language has one program, which does the main job with the client that its generator makes. All print
the same lines. Nothing that a generator writes is committed.
"""
