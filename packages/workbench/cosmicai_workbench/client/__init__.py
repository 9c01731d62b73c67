"""Drives executions through boto3 alone; AWS and the local cloud differ in the endpoint only."""
