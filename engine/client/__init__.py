"""Clients: of the HTTP API, and of the socket that belongs to the owner."""
