"""The programs as tests start them."""
