"""Everything that knows uvicorn: the process that listens, its connections and its end."""
