"""What a model wrote, as HTML or Markdown that can neither run nor fetch anything.

It knows text alone: nothing of exchanges, widgets or pictures. Begin with `html.to_html`; `blocks` cuts a
text that is still growing, `maths` writes formulas as MathML, `safe_markdown` writes the Markdown of
saved notebooks.
"""
