"""The desk: who may ask what, the audit record before the answer, messages on the socket."""
