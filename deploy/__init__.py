"""What it takes to run the two programs somewhere; `deploy.local` is for one machine."""
