"""The commands of an operator, one module a command.

`status` and `doctor` show what is there and what is wrong. `verify` compares the topic with the outbox
(`comparison`). `replay` and `snapshot` publish events again (`republisher`), at least once. `rebase`
gives a copied database a relay of its own. `terminal` has what all commands share: settings, errors in
one line, text or JSON, the progress bar.
"""
