"""From a name to a model in memory: find it, plan, estimate, then fetch and load, or say beforehand why not.

It knows files, configurations and devices, and nothing of conversations, generation or notebooks. Begin with
`loading`, whose one function calls the others in their order.
"""
