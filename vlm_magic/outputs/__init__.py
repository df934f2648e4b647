"""From chunks and replies to what a person sees: panel, transcript, terminal."""
