"""Which parts of an image a prediction rests on."""
