"""Values of which every round makes several: as fixed as frozen dataclasses, and made in a seventh of their time."""

from __future__ import annotations

from typing import Any, Self

from msgspec import Struct, structs


class Record(Struct, frozen=True, eq=False):
    """A value with named parts. Equal to itself alone, unless its class says otherwise: most have arrays inside."""

    def changed(self, **parts: Any) -> Self:  # noqa: ANN401  (what the parts are)
        """The same but for some of it.

        Raises
        ------
        TypeError
            It has no such part.
        """
        return structs.replace(self, **parts)
