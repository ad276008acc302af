"""Ingest: from a gateway's link to a verdict and a durable row."""
