"""Long tests: faults that last, long loads, larger worlds of the protocol. `make test-faults` runs them."""
