"""Message structs that several rooms use."""
