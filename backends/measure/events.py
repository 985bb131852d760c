"""What the worker may say, validated: a stray kernel can write anything to the pipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from ...ir.measure import Status
from .protocol import ProtocolError


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Ready(_Event):
    """The worker has started."""

    event: Literal["ready"]


class Stored(_Event):
    """The arguments have arrived."""

    event: Literal["stored"]


class Refused(_Event):
    """There is not enough memory for the arguments."""

    event: Literal["refused"]
    error: str


class Loading(_Event):
    """A candidate's code is about to be loaded."""

    event: Literal["loading"]
    index: int


class Checking(_Event):
    """A candidate is about to be executed; where its memory lies, as ``(label, address, size, readonly)``."""

    event: Literal["checking"]
    index: int
    regions: list[Annotated[tuple[str, int, int, bool], Field(strict=False)]]


class Verdict(_Event):
    """A candidate was checked; null errors are infinite."""

    event: Literal["verdict"]
    index: int
    status: Status
    error: str
    max_errors: list[FiniteFloat | None] = []


class Racing(_Event):
    """Timing begins."""

    event: Literal["racing"]


class Timed(_Event):
    """A candidate's samples."""

    event: Literal["timed"]
    index: int
    latencies: list[Annotated[FiniteFloat, Field(gt=0)]] = Field(min_length=1)


class Done(_Event):
    """The request is finished."""

    event: Literal["done"]


Event = Ready | Stored | Refused | Loading | Checking | Verdict | Racing | Timed | Done
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse_event(header: dict[str, Any]) -> Event:
    """Validate an event.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return _ADAPTER.validate_python(header)
    except ValidationError as error:
        raise ProtocolError(f"expected an event, found {str(header)[:80]}") from error
