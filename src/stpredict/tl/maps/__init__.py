"""Networks on bags, moved over the tiles of a slide."""
