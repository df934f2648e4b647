"""From the text of a cell, and whatever it names, to words and pictures in their order.

Anything picture-like becomes an upright RGB picture or one clear error, under limits on size, time and
addresses. It knows nothing of models or of IPython. Begin with `prompt`, then `kinds`: the table of what
pictures come as.
"""
