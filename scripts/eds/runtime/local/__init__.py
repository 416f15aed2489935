"""The embedded runtime: real PostgreSQL processes, without Docker and without root."""
