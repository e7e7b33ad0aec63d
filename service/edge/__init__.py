"""The code that all routes share: from a request's head to its handler, and from the Reply to the response.

`gate` is the ASGI app. It makes a Call of a request, checks the key and the rate limit, finds the
route, and sends the Reply. `calls` has the Endpoint of a method: it checks the scope and the ids in the
path, decodes the body and the query string into structs, and cancels the handler at its deadline.
`shapes` has the types that the messages of several packages share.

Endpoints, public pages, OPTIONS, preflights and errors all give a Reply, and only the gate sends it.
An error is an exception: Refusal from the domain, EdgeError from here. `calls.problems` has the one
table of error codes and makes the Reply.
"""
