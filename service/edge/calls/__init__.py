"""From a call's bytes to a handler's arguments, and from its errors to problems.

The checks come in a published order: scope, ids in the path, media type and size of the body, its
content, the query string. Decoding with msgspec is the fast path. `validation` runs only after msgspec
has refused something, and finds all that is wrong, in words that come from the types.
"""
