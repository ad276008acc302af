"""Decoding: frames to the codes in them."""
