"""What one does with an engine beyond chat."""
