"""What an execution left: run folders, plots, export, comparison."""
