"""The magics: one line parsed, one call made, one result shown.

Knows IPython, and which room does what; nothing of how anything works. Begin with `magics`, then
`calls.ask`, which decides what kind of call a cell is; `options` is the table of what a line may say.
"""
