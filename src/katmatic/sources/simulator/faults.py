"""What goes wrong between a card and the log, as shares; docs/simulator.md says where each default comes from."""

from __future__ import annotations

from dataclasses import dataclass, fields

from katmatic.errors import InputError


@dataclass(frozen=True)
class Faults:
    """How often readers and people err. `Faults.none()` is a school without errors.

    exact_repeats: a read is sent again, byte for byte (and again, with the same share).
    repeats: a card is read again 2 to 20 seconds later.
    late_uploads: a read is kept by a hand-held reader and sent 5 to 90 minutes later.
    reader_outages: per gate and day: one reader is dead for 3 to 20 minutes; its reads are sent in order after.
    network_outages: per day: no gate can send for 3 to 12 minutes, heartbeats included; reads are sent in order after.
    heartbeat_gaps: per day: heartbeats alone stop for 3 to 8 minutes.
    lost_heartbeats: of single heartbeats.
    forgotten_cards: of present pupils: no read; the register calls them absent until it is corrected.
    corrected_same_day: of the forgotten cards; most others are corrected one to three school days later.
    never_corrected: of the forgotten cards.
    foreign: messages on the topic that are no check-ins, as a share of the reads.
    """

    exact_repeats: float = 0.12
    repeats: float = 0.10
    late_uploads: float = 0.004
    reader_outages: float = 0.03
    network_outages: float = 0.02
    heartbeat_gaps: float = 0.02
    lost_heartbeats: float = 0.001
    forgotten_cards: float = 0.006
    corrected_same_day: float = 0.75
    never_corrected: float = 0.03
    foreign: float = 1 / 2000

    def __post_init__(self) -> None:
        for field in fields(self):
            share = getattr(self, field.name)
            if not (isinstance(share, int | float) and 0 <= share < 1) and not (
                share == 1 and "corrected" in field.name
            ):
                raise InputError(
                    f"Faults.{field.name}", found=repr(share), expected="a share in [0, 1)", do="e.g. 0.01"
                )
        if self.corrected_same_day + self.never_corrected > 1:
            raise InputError(
                "Faults",
                found=f"corrected_same_day={self.corrected_same_day}, never_corrected={self.never_corrected}",
                expected="no more than all of them",
                do="lower one",
            )

    @classmethod
    def none(cls) -> Faults:
        """A world in which nothing goes wrong."""
        return cls(**{field.name: 0.0 for field in fields(cls)})
