"""Pure code: no database, no broker."""
