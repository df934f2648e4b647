"""Answers that are chosen among several: from a person's list, Enum or dict to the likeliest reply.

Knows replies and probabilities; not how a reply is scored (`vlm_magic.models.decoding.choices`), nor
pictures or notebooks. Begin with `choices`: `ChoiceSet` is what was asked, `Choices` what came out.
"""
