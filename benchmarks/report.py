from collections.abc import Mapping

import attrs


@attrs.frozen
class Report:
    """The result of a scenario.

    Attributes:
        exit_code: the worst of the audits and drains; 0: nothing was lost, doubled or left over.
        counts: how often each thing happened that the scenario measures.
        missed: how many targets of speed or memory were missed.
    """

    exit_code: int
    counts: Mapping[str, int]
    missed: int = 0
