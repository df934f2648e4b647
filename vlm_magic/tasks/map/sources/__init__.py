"""Where a map's rows come from: files that hold tables, and how a row's files are told from others.

Knows files; nothing of prompts, engines or journals, and opens no picture. Begin with `table_files`;
`source_key` names a question by the files of its pictures.
"""
