"""Files that hold what was seen: one module per format, a plan before writing, a reload and comparison after."""
