"""The subscriber of deploy/subscriber as a team that starts from it runs it."""
