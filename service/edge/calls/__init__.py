"""One call: its fields, its query and its body, checked and decoded; its problem, if it fails."""
