"""boto3 for a local cloud, which the user's settings for AWS have no part in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import boto3


def local_session(variables: Mapping[str, str]) -> boto3.Session:
    """Return a session with the keys and region of a local cloud's environment.

    Neither the variables of this process nor the files in ``~/.aws`` change it: a profile that is
    not there, or a broken file, would end in an error. Its clients go past any proxy.
    """
    import boto3
    from botocore.config import Config
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES as DEFAULTS
    from botocore.session import Session

    settings: dict[str, Any] = {
        name: (None, None, default, conversion)
        for name, (_, _, default, conversion) in DEFAULTS.items()
    }
    for file in ("config_file", "credentials_file"):
        settings[file] = (None, None, os.devnull, None)
    session = Session(session_vars=settings)
    session.set_default_client_config(Config(proxies={}))
    return boto3.Session(
        botocore_session=session,
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_REGION"],
    )
