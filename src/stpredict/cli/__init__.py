"""The shell: one command per file, each of which is light to import."""
