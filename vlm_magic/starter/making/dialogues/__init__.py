"""Conversations: questions, pictures and answers in the order in which a person would bring them.

Knows nothing of tokens and models. Begin with `turns`, then `dialogues`.
"""
