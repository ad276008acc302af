"""The wire: CKP/1 and what carries it, for both of its ends."""
