"""Parts of an image that a prediction depends on."""
