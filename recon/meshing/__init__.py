"""Surfaces of trained scenes, and what they look like."""
