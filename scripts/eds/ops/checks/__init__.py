"""The checks of `make verify`, by area. Each shows that something works by using it, and leaves no row behind."""
