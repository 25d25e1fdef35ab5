"""A model on a device: its originals, its store, a recipe applied to it, and the images it makes."""
