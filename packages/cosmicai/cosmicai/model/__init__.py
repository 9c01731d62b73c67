"""The AstroMAE redshift model: its architecture, its files and its inference graph."""
