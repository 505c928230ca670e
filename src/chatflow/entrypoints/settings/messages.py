"""What a valid message is; the defaults are those of the rules themselves."""

import attrs

from chatflow.domain.messages.rooms import ROOM_MAX_CHARS
from chatflow.domain.messages.validation import MessageLimits
from chatflow.entrypoints.settings.fields import integer

_DEFAULTS = MessageLimits()


@attrs.frozen
class MessageSettings:
    """Limits of texts and names. The schema has room for the longest values that are allowed here."""

    message_max_chars: int = integer(_DEFAULTS.text_max, "longest message, in characters", most=4000)
    username_min_chars: int = integer(_DEFAULTS.username_min, "shortest username", most=64)
    username_max_chars: int = integer(_DEFAULTS.username_max, "longest username", most=64)
    room_max_chars: int = integer(_DEFAULTS.room_max, "longest room id", most=ROOM_MAX_CHARS)
