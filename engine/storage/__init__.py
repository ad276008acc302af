"""Storage: the scan log and the control log, durable on LMDB."""
