"""One prompt under a grid of settings: answers side by side, with their time, tokens and memory.

Knows engines and settings; nothing of notebooks, and not how the grid is drawn. Begin with `grid`, whose
`Comparison` is what a person gets, then `run`, which answers it.
"""
