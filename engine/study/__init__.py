"""Studies: random recipes measured on fixed prompts and seeds, kept in one SQLite file that any run can continue."""
