"""From what a person wrote and has to parts of a prompt: text, pictures, downloads."""
