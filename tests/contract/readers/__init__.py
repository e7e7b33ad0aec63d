"""The topic as others' clients, SDKs and validators read it."""
