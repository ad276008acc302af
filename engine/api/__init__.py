"""The HTTP API, a process of its own: answers in words, over the engine's socket."""
