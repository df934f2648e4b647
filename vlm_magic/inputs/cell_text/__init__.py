"""The syntax of a prompt: words, ``{expressions}``, picture references and URLs, told apart.

`scanner` finds the `marks`, `expressions` reads and evaluates one, `links` knows where a URL ends. It knows
nothing of pictures and looks up no name but those that an expression needs. Begin with `marks`.
"""
