"""The platform's command line: everything that `make` can do, on either runtime."""
