"""The loan book: its invariants, demonstration data, imports and live traffic."""
