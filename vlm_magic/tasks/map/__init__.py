"""One prompt over many pictures: rows in, answers out, nothing asked twice, a table at the end.

Knows engines, prompts and journals; nothing of notebooks, and not how a sheet is drawn. Begin with
`mapping`: `rows` brings what is asked, `batches` asks it, `ledger` and `journal` keep what was answered.
"""
