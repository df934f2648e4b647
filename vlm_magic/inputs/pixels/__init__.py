"""From encoded bytes, arrays, figures and other objects to upright RGB pixels.

It knows nothing of where they came from. Begin with `decode` for files and `arrays` for numbers; `levels` and
`modes` hold what makes a picture look as a person sees it, `sniff` tells types without importing their
libraries.
"""
