"""The package list, which pyproject.toml cannot say: code is found, and `assets` ships under another name."""

from setuptools import find_packages, setup

# `assets` would be a bold name among installed packages; engine/core/places.py looks for this one.
setup(packages=[*find_packages(include=["engine", "engine.*", "explorer", "explorer.*"]), "quantscape_assets"])
