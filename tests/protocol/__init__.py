"""A model of the relay's protocol, explored exhaustively.

A world is small: a few transactions that write events of two documents, one Postgres, one Kafka,
two workers, and a bounded number of faults. `explore` walks through every interleaving of their
steps and asserts, in each state:

* an event is published once. It may be repeated only with at-least-once delivery, or after a start
  from the checkpoint;
* a start from the checkpoint happens only after Postgres went back in time or the progress record
  could not be trusted;
* an event is published after every earlier event of its document;
* once all transactions have ended and the leader finds nothing to read, every committed event is
  published.

The model has its own Postgres (`postgres.py`) and Kafka (`relay.py`), because it must stop them between
any two steps. The relay's decisions are its own code: the clipping of snapshots, the cursor after a page,
and the choice of the start.
"""
