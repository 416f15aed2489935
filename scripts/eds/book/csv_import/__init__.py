"""Import of a loan book from CSV files."""
