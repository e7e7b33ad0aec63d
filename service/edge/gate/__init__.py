"""What every request passes and every response leaves through."""
