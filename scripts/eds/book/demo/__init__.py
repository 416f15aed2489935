"""The demonstration loan book."""
