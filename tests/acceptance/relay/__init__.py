"""The relay as subscribers of the topic meet it."""
