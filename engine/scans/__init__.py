"""Scans: what was seen and how it is written down, as rows, records and lines; who it was."""
