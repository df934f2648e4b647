"""What tasks found, as static HTML and as words: choices, comparisons, maps, typed answers, bills.

Pure functions of values that are handed in; they know nothing of the tasks that made them, or of how and
when an output is shown. Begin with `choices`, the smallest; each module gives one ``…_bundle``.
"""
