"""How what was found out about an answer looks: static HTML, one PNG and words, a module for each view.

What a picture shows is drawn into the picture itself, so that it stays where a site strips styles, and is
said in its alt text. Begin with `bundle`; `marked` draws, the others are a view each.
"""
