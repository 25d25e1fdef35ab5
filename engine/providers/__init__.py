"""Providers turn a model into sensitivity scores per layer and option; scores files and damage tables."""
