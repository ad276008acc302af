"""The co-location index: layers in memory, days in files, and what is counted beside it."""
