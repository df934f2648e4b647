"""The plain transformers program that gives the same tokens as a turn, for people who want to see it.

Knows local models and what their processors make of a prompt; nothing of notebooks, and of servers only
that they have none. Begin with `program`; `parts`, `ways` and `scored_choices` write its sections.
"""
