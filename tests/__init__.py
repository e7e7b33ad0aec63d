"""Tests on real parts; see .github/CONTRIBUTING.md."""
