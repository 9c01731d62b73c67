"""Right-sizing: memory size × batch size × partition size → time and cost, and the best of them."""
