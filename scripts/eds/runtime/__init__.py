"""Where the servers run: embedded processes or containers."""
