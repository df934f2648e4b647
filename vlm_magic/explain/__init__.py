"""Why this answer: one answer looked at from several sides, by asking the model again in other ways.

Stands below `session`, which offers it as `Session.explain`, and asks engines by what they can do. Each view
says what was measured and never more, and can say that nothing decides. Knows nothing of cells, conversations
or servers. Begin with `looking.explain`; each module knows only those to its right:

    looking ─▶ needed, without ─▶ asking ─▶ hiding
            ├▶ words, inside ─▶ `vlm_magic.models.inside`
            ├▶ memory
            └▶ explanation ─▶ `vlm_magic.outputs.explain`
"""
