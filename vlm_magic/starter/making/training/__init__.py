"""The stages of training: a vision tower, its features on disk, a language model on top, both together.

Knows nothing of how the result is measured. Begin with `text_stage`; `network` is the fast forward pass.
"""
