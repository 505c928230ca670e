from collections.abc import Mapping

import attrs


@attrs.frozen
class Report:
    """What came of a scenario.

    Attributes:
        exit_code: the worst of the audits and drains; 0: nothing was lost, doubled or left over.
        counts: how often happened what the scenario is about.
        missed: how many targets of speed or memory were missed.
    """

    exit_code: int
    counts: Mapping[str, int]
    missed: int = 0
