"""What every route shares: keys, scopes, rate limits, idempotency, problems, request ids, pages."""
