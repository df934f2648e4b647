"""All that made the starter: its world, its questions, its training and its measurement.

Stays in the repository and the source distribution, outside the wheel: nobody needs it to run the starter,
and nothing outside this folder but tests imports it. Knows the package only through its front door, for
measuring. Begin with `train`, which goes through the stages from top to bottom; imports go `world` <- `words`
<- `asking` <- `dialogues` <- `training`, and `skills` <- `evaluate` -> `card`.
"""
