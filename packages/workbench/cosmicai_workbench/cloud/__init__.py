"""The local cloud: the template and definition that deploy, run whole on this machine.

:class:`~cosmicai_workbench.cloud.local.LocalCloud` is the way in; ``docs/local-cloud.md`` says what
is the same as on AWS and what is not.
"""
