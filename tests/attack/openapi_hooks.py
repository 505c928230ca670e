"""Loaded by schemathesis: what a schema cannot say, so that everything else that it allows must be accepted.

A cursor is made by the server, a day must be in the calendar, and an end must not lie before its start.
"""

import re

import schemathesis

UNSAYABLE = re.compile(
    r"cursor (is not a cursor of this service|belongs to another listing|is damaged)"
    r"|end must not be before start"
    r"|(start|end) must be a time like .*"
)
LAST_SURE_DAY = 28


@schemathesis.check
def valid_requests_are_accepted(ctx, response, case) -> None:
    mode = case.meta.generation.mode if case.meta else None
    if mode is None or not mode.is_positive or response.status_code != 400:
        return
    reason = response.json()["reason"]
    assert UNSAYABLE.fullmatch(reason), reason
    name = reason.split()[0]
    if name in {"start", "end"} and "a time" in reason:
        value = case.query[name]
        assert int(value[8:10]) > LAST_SURE_DAY or value[:4] in {"1000", "9999"}, value
