"""MPI-like messages between functions that cannot listen on a port."""
