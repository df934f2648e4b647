"""The small world: objects, scenes, charts and edited copies, drawn from a seed together with their truth.

Knows nothing of questions and models. Begin with `palette` and `things`, then `scenes`.
"""
