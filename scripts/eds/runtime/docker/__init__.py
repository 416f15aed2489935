"""The Docker Compose runtime."""
