"""What is published about the service, held by tools that others wrote."""
