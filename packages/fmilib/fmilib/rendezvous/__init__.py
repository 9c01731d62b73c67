"""The rendezvous server, where ranks that cannot listen on a port find each other."""
