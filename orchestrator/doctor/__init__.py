"""What is there and what is not: looked at, never changed, nothing downloaded, nothing waited for long."""
