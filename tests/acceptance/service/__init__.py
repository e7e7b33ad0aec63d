"""Both programs as those who call the API meet them."""
