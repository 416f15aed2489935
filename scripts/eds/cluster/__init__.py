"""The PostgreSQL servers as clients see them."""
