"""The relay's protocol. Start reading at process.py."""
