"""Identity: keys that stand for people, which of them are one person, who is looked for."""
