"""From a prepared prompt to words: one answer, a batch, a grammar to keep to, or the scores of given replies.

Knows a loaded model and the generation that it serves; not how prompts are laid out, nor who waits. Begin
with `single`, one call of ``generate``; `shared_batch` and `batch` answer several, `scoring` and `choices`
compare replies, `stopping` ends all of them early.
"""
