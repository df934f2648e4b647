"""Questions about pictures, each with its right answer: what is asked, of what, and when it is not asked.

An asker takes the truth of a picture (or of several) and returns an `Ask`, a pattern still to be worded.
Knows nothing of conversations, tokens and models. Begin with `questions`, then `askers`.
"""
