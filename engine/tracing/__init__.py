"""Tracing: a tracer's questions, asked of one snapshot of the index."""
