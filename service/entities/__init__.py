"""Entities: what documents can be linked to."""
