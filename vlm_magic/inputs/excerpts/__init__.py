"""Parts of a source, by the web's own fragment words: a region, pages of a PDF, frames of a video.

It knows nothing of prompts or of where the bytes came from. Begin with `fragments`, which says what was asked
for; `region` cuts pictures, and `holders` reads PDF and video files, each in a child process with limits.
"""
