"""The next token, without what ``generate`` does around it: a decoder's layers, straight from its weights.

Knows a transformers model and its cache; not prompts, settings or people. Begin with `blueprint`, which
reads a decoder and says whether it is understood; `eager` computes a step with torch, `kernel` with its own
arithmetic on a CPU, `recorded` as a CUDA graph; `proof` compares the first step with the model's own; `loop`
chooses tokens.
"""
