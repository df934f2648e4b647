"""What one does with an engine beyond chat: choose, hold to a type, map over pictures, compare, write code.

Tasks know engines by what they can do, never by where they run, and nothing of notebooks or widgets. Each
says in three lines what an engine cannot do. Begin with `forms` (what answers are held to), then `map`.
"""
