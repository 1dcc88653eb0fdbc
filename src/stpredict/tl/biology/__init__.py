"""What follows from measured or predicted expression."""
