"""Allocators: damage per layer and option, stored bytes and a budget -> a recipe, with a bound on any other."""
