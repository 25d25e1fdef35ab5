"""Scripts that draw the emoji data and train the demo models from it."""
