"""chot: decode, settle and trace the scans of a province's health checkpoints."""

__version__ = "0.1.0"
