"""Quantizers: weight tensors in, packed tensors out, and back; numpy, torch and numba, no models."""
