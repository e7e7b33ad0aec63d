"""What all routes share: the way of a request from its head to its handler, and of the reply back.

`gate` is the ASGI app. It makes a Call of a request, checks the key and the rate limit, finds the
route, and sends the Reply. `calls` is what lies between the gate and a handler: the method's Endpoint
checks the scope and the ids in the path, decodes the body and the query string into structs, and ends
the call at its deadline. `shapes` has the types that the messages of several rooms share.

Endpoints, public pages, OPTIONS, preflights and errors all return a Reply, and only the gate sends it.
An error is an exception: Refusal from the domain, EdgeError from here. `calls.problems` has the one
table of error codes and makes the Reply.
"""
