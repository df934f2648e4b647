"""The magics: parse a line, make one call, show one result."""
