"""Access keys of a local cloud."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """A pair of an access key and its secret."""

    access_key: str
    secret_key: str

    @classmethod
    def new(cls) -> Keys:
        """Make random keys of the form of AWS's."""
        alphabet = string.ascii_uppercase + "234567"
        return cls(
            "AKIA" + "".join(secrets.choice(alphabet) for _ in range(16)), secrets.token_hex(20)
        )

    def variables(self, region: str) -> dict[str, str]:
        """Return the environment with which an AWS client uses the keys."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
        }
