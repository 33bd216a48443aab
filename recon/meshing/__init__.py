"""Surfaces of trained scenes: depth seen by many cameras, fused, cleaned, coloured and written."""
