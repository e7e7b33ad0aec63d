"""Both programs, as commands and in this process."""
