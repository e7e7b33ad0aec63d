"""The alerts of deploy/prometheus: cases of each, which promtool evaluates."""
