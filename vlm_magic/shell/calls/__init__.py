"""The kinds of call that a cell can be: a turn of a chat, a map, a comparison, a dry run, a program.

Each module reads what its options name in the notebook, makes the call and puts the result where the
person wants it; none knows how a line is parsed or how an answer is made. Begin with `call`, then `ask`.
"""
