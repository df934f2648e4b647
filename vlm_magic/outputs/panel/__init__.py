"""The live panel: an anywidget that shows turns as they come and tells the kernel what a person does.

It knows nothing of engines and conversations, which the caller's callbacks stand for. Begin with
`widget.ChatPanel`; `stream` sends the words of an answer, `composer` reads what was typed, `page` joins
the code of ``static/``.
"""
