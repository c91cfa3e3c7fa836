"""What Alertmanager tells a webhook (its payload, version 4)."""

from __future__ import annotations

import msgspec

from katmatic.errors import InputError


class Alert(msgspec.Struct):
    """One alert of a group."""

    status: str
    labels: dict[str, str]

    @property
    def is_firing(self) -> bool:
        """Whether it has begun and has not ended."""
        return self.status == "firing"


class Notification(msgspec.Struct):
    """A group of alerts that began, go on or ended."""

    alerts: list[Alert]


_decode = msgspec.json.Decoder(Notification).decode


def read(data: bytes) -> Notification:
    """The notification; InputError if it is none."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(
            "body", found=str(error), expected="what Alertmanager sends to a webhook", do="let Alertmanager call this"
        ) from error
