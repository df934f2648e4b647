"""One decode step on a CPU at memory's speed: its source, how it is built, and how it is called."""
