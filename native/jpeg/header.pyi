__pyx_capi__: dict[str, object]  # for the other extensions
