"""Drives executions through boto3; AWS and the local cloud differ only in the endpoint."""
