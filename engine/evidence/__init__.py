"""What was proved about a model: studies read, predictors fitted, recipes compared on unseen images, all written up."""
