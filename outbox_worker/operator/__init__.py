"""The commands of an operator, one module a command.

`status` shows the state of the relay (`state`, which the worker's page shows too), and `doctor` finds
wrong settings, missing rights (`kafka_checks`) and connections without TLS (`encryption`). `verify`
compares the topic with the outbox (`comparison`). `replay` and `snapshot` publish events again
(`republisher`), at least once. `run` records their progress, so that --resume can go on after Ctrl-C.
`rebase` gives a copied database a relay of its own. `published` reads how far the relay has published.
`terminal` has the parts that all commands share: settings, errors in one line, text or JSON, the
progress bar.
"""
