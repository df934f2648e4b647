"""Teaching a model that is loaded here: batches with labels, a short loop, adapters that come off again.

Begin with `teach`, one call that returns a `Lesson`. `batch` makes tensors of conversations, `conversations`
reads what people have as examples, `adapters` puts LoRA weights on and takes them off, `loop` is the loop.
"""
