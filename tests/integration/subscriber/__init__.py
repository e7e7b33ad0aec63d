"""The subscriber's transactions, on records that a test makes."""
