"""Calibration on real sampling trajectories: captured inputs, ranges, cross-layer correlation, scales, rounding."""
