"""From turns to chunks: loading, families, memory and the engine."""
