"""From a URL to bytes, under limits on total time, size, redirects and addresses.

It knows nothing of decoding. Begin with `fetch`; `addresses` says where it may go, `connections` goes exactly
there, and `disk_cache` keeps what came.
"""
