"""Luma of baseline JPEG frames, no more of them than is asked for."""
