"""The checks of `doctor`: they read, change nothing, download nothing and never wait long."""
