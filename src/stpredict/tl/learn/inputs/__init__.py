"""What networks read, from the slots of an object: one reader per file."""
