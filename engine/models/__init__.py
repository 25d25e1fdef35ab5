"""Models as files and modules: the catalogue, loading, layers, the traced graph; the only importer of diffusers."""
