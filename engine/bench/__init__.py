"""Side-by-side ratios, both sides measured in one run; never absolute claims."""
