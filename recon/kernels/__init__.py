"""Numba kernels: numpy arrays in, numpy arrays out, no torch. Everything that must be fast on a CPU."""
