"""The topic as its subscribers read it."""
