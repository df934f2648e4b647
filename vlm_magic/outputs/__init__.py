"""From chunks and replies to what a person sees: live panel, saved transcript, terminal, tables of results.

It knows nothing of models, of the notebook's names or of how a cell is run: it gets exchanges, bills and
rows, and hands what a person does in a panel to callbacks. Everything that leaves here is inert: what a
model wrote passes two walls, what a person or a variable wrote is escaped, pictures are raster data that
this package made.

Begin with `answer_views.choose_view`, which shows one answer where the person is, and `chat.ChatView`, which
shows a whole conversation. Each module below knows only those to its right:

    answer_views, chat ─▶ panel/ ─▶ fragments ─▶ markdown/
                      ├─▶ transcript ─▶ styles; export writes files of it
                      ├─▶ terminal
                      ├─▶ records, kept in the outputs' metadata, to go on from a saved notebook
                      └─▶ live_output ─▶ surroundings
    results/ shows what tasks found: choices, comparisons, maps, typed answers, bills

The page's code is in ``static/``, written by hand and sent as one module: `state.mjs` (pure, tested by node),
`parts.mjs`, `turns.mjs`, `composer.mjs`, `chat.mjs`.
"""
