"""The state of this worker and of its relay: `GET /status.json`.

The document has the fields that `status --json` prints, and in `worker` what only this process knows:
its state and problem (`relay.health`), its last changes of state, what `doctor` found at the start, and
the figures of the last hour. `status --json` prints `worker` too, if a worker answers at the configured
address.

Nobody pays for a document that nobody asks for, and many readers cost no more than one:

* What the process has in memory (state, lag, published events, offsets) is not measured again. A sample
  of it is kept for every 10 s of the last hour (`history`). A restart of the process loses the samples.
* What only Postgres and Kafka know (sessions, ring, tasks; partitions) is read while somebody asks for
  it, every few seconds, over one connection for all readers (`watched`). A request waits for this no
  longer than a second. Then it is answered with what is known.
* The document is encoded at most once a second (`observer`).

The last changes of state are the worker's last log lines (`changes`): it logs one line for each change.
Of the settings, the document shows only the topic and the delivery mode.
"""
