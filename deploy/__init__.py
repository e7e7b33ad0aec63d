"""Files for running the two programs; `deploy.local` runs them on one machine."""
