"""Removing rows: those that an operator names (erase.py), and those whose time has expired (expiry.py).

The write path only marks rows as deleted, in the transactions that emit the events. The marked rows are
removed here, in further transactions without events.

* rows.py has the statements that remove. The documents are locked first, as by each writer, so a writer that
  has read a removed link in order to restore it still finds it.
* erase.py deletes and then removes one document, one entity or all of a workspace. workspaces.py removes the
  workspace, too.
* expiry.py sweeps over all documents in the background, in the order of the primary key. An index on
  `deleted_at` would make each unlink slower. Deleted entities do not expire: no index finds the removed links
  of an entity, so the foreign key's check reads a large part of an index for each entity.

A removed document leaves a tombstone in `erased_documents`. If it is made again, a trigger of schema.sql
continues its version and revision. A removed link leaves nothing. If it is made again, it is a new link with
a new id.
"""
