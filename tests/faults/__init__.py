"""Long proofs: faults that last, loads that go on, larger worlds. `make test-faults` runs them."""
