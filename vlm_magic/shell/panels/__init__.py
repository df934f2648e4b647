"""What a panel of a whole conversation is made of: its menus, and its questions under way.

Begin with `under_way`. Neighbour: `vlm_magic.shell.chat` serves a panel with these.
"""
