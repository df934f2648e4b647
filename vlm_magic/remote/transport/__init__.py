"""Requests to one server, and what comes back: addresses, connections, streams, and servers that say no.

It turns a path and a body into JSON values or a stream of bytes, and everything that can go wrong into one
of our errors. It knows nothing of models, prompts or kinds of servers. Begin with `wire`.
"""
