"""Turns to tensors: a conversation laid out as its model's family wants it, its pictures found in it again.

It knows templates, processors and tokenizers, and nothing of weights, caches or generation. Begin with
`families`, the table of what differs; `prepare` is the one way in, `layouts` does most of the work.
"""
