"""The service's decisions: pure functions over values, without I/O and without a framework.

A write (`writes.Write`) is the change that one call asks for. It answers two questions of the store:

* What does it need? The documents, links and entities to lock and read (`needs`, `links`,
  `unknown_entities`). The store reads them into a `State`.
* What does it decide (`decide`)? It changes the state and returns the reply, or raises a `Refusal`
  (errors.py) and leaves the state unchanged. The store saves the changes (`State.unsaved`), and the
  reply if the call has an Idempotency-Key.

A transaction may hold the writes of many callers. They are decided one after the other on one state.
Three classes implement it: `LinksWrite` (links.py), a list of changes of links; `DocumentWrite`
(documents.py), a document's fields, its whole set of links, its deletion and its restore; `EntityWrite`
(entities.py), the registration and deletion of an entity. Links change in `links.Draft` only, which makes
one event for each changed link.
"""
