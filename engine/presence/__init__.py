"""Presence: the rules that make visits of scans and contacts of visits. Pure."""
