"""The worker's page: `GET /`, and the document that it draws, `GET /status.json`.

The document has the fields that `status --json` prints, and in `worker` what only this process knows:
its state and problem (`relay.health`), its last changes of state, what `doctor` found at the start, and
the figures of the last hour. `status --json` prints `worker` too, if a worker answers at the configured
address.

Postgres and Kafka are read only while a browser shows the page, and a hundred viewers cost them no more
than one:

* What the process has in memory (state, lag, published events, offsets) is not measured again. A sample
  of it is kept for every 10 s of the last hour (`history`). A restart of the process loses the samples.
* What only Postgres and Kafka know (sessions, ring, tasks; partitions) is read every few seconds while
  requests arrive, once for all viewers (`watched`). The first request waits for it, for a second at most.
  Then it is answered with what is known.
* The document is encoded at most once a second (`observer`), and the files are read once (`routes`).

The last changes of state are the worker's last log lines (`changes`): it logs one line for each change.
The page has no inline script or style, loads nothing from other hosts, and shows no setting but the
topic and the delivery mode.
"""
