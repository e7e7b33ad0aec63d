"""Migrations: from the schema that a database has to the one that this program needs, while programs run.

schema.sql is the whole schema. An empty database gets it in one transaction. Any other database gets the
steps that it lacks: one file for each version of the schema, `0002_….sql` and so on, in order. A test holds
that both ways lead to the same schema, object by object.

A step is plain SQL. Its first line says what it is for, and the lines after it declare how it runs:

    -- Release 1.1.0: …
    -- oldest programs: 2
    -- lock: document_links, SHARE UPDATE EXCLUSIVE, scan
    -- outside a transaction

* `oldest programs`: the oldest schema whose programs can run on the schema after this step. If it is less
  than the step's own number, the step may run beside the release before it. Functions that the programs of
  a release call stay until that release's schema is no longer the oldest one.
* `lock`: a table that existed before, the lock that the step takes on it, and for how long: `momentary`
  (the catalogue is changed) or `scan` (the table is read). `migrate --plan` prints them; a test compares
  them with the locks that the step takes.
* `outside a transaction`: the file is one statement that cannot run inside a transaction, such as CREATE
  INDEX CONCURRENTLY IF NOT EXISTS, and can be repeated. All other steps run in one transaction.

New objects are created in the schema that has the tables, whatever search_path begins with. The programs may
have a role that owns nothing. So a step grants the rights to each new table and function to the roles that
have them for an older one.

apply.py runs the steps, and says there how it waits for locks. plan.py prints them. version.py records which
schema a database has, and refuses programs that cannot run on it.
"""
