"""The command `chot`, its doctor and its demo."""
