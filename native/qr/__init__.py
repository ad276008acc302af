"""The own QR reader, stage by stage: a plane of luma in, codes out, no Python object between."""
