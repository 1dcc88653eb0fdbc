"""How good a prediction is, beside baselines and the noise ceiling."""
