"""Keeping: what is held, forgotten, erased, verified, backed up."""
