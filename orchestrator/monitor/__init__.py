"""What a running sweep looks like: heard from its events, drawn in one way, whoever watches."""
