"""Wordings: a small language of patterns, the patterns of every skill, and phrasings kept out of training.

Knows nothing of pictures and truths: slots stand for them. Begin with `grammar`.
"""
