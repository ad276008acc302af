"""The registry: venues, posts, units, areas, grants, rules; their tables, codes and posters."""
