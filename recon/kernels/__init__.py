"""Numba kernels: numpy arrays in, numpy arrays out, no torch. Everything that must be fast on a CPU.

`simd.py` and `lanes.py` are the vector type, `runtime.py` compiles, caches and runs kernels on all cores.
"""
