"""The denoiser as a picture one can edit: Structure -> scene -> drawing data -> browser components."""
