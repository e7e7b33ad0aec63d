"""Holds both programs to their lists of metrics and log events, and makes the operators' page from them.

`source` finds the log events in the code. `emitted` checks the lines that a program logs in a test, and the
metrics that it offers. `make telemetry` writes the page (`page`).
"""
