"""What a model has computed is kept for prompts that begin alike, and for pictures that come again.

Never changes an answer: what does not match, or may not be whole, is computed anew. Knows prepared prompts
and tensors, not conversations or how tokens are chosen. Begin with `reuse`, which puts `prefix_cache` (keys
and values) and `vision_cache` (features of pictures) to work; `fingerprint` says when they are out of date.
"""
