"""Pure code, without a database or a broker."""
