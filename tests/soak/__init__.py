"""`make soak`: whether both programs stay as they are under a steady mix of all calls.

`mix` has the calls, `callers` sends them at a steady rate, `samples` reads the programs and the
database at the end of each interval, and `curves` tells which of the figures keep rising. The documents,
entities and links are made before the first interval, and the mix hardly makes new ones. So the tables
keep their size, except those that have a row for each change: the outbox and the stored replies.
"""
