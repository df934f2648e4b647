"""From chunks and replies to what a person sees: panel, transcript, terminal.

Two ways in for the shell: `views.choose_view` shows one answer where the person is, `chat.ChatView`
a whole conversation. Below them, each knowing only those to its right:

    views, chat ─▶ panel ─▶ stream, drafts ─▶ cards ─▶ markdown ─▶ blocks, maths, safe_markdown ─▶ parsing
               └─▶ transcript (export) ─────────┘
               └─▶ saved: records in the outputs' metadata, to go on from a saved notebook

Everything that leaves here is inert: what a model wrote passes two walls, what a person or a
variable wrote is escaped, pictures are raster data that this package made. The page's code is in
``static/``: `state.mjs` (pure, tested by node), `parts.mjs`, `turns.mjs`, `composer.mjs`, `chat.mjs`.
"""
