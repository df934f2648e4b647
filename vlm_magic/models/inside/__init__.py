"""What needs the network's inside: scores of many pictures at once, layers, attention, and a prompt's tokens.

Each function gets a `Loaded` and is called in the worker's own thread (`LocalEngine.borrow`), outside the
stores of what was computed before: what it asks leaves no trace. Says by an error where a model has no such
inside. Knows nothing of conversations' order, of cells or of how a view looks.
"""
