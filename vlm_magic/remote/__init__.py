"""A model behind an OpenAI-compatible server, as an engine like any other.

It turns conversations into requests and streams into answers, and finds out what a server is and can do by
asking it. It knows nothing of torch, transformers, IPython or notebooks; keys are read from the environment
at each request and kept nowhere. Begin with `engine`; `connect` makes one, `transport` sends and receives,
`dialects` knows the kinds of servers, `probe` asks them, `payload` writes requests, `answer` reads streams,
`scoring` compares choices, `forms` holds answers to types.
"""
