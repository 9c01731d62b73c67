"""Checks between the source tree and a run on AWS: the build, the account, the stack."""
