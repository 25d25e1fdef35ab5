"""Sensitivity learned from measured recipes: predictor, controls, scores, attributions and how faithful they are."""
