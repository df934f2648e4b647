"""How often free answers are right: who is right decided, accuracy with its interval, two models compared.

Begin with `evaluate`, one call; `judging` decides about single answers, `proportions` is the arithmetic.
"""
