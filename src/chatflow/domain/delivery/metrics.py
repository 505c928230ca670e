"""What delivery counts."""

import attrs


@attrs.define
class DeliveryMetrics:
    """Since the gateway started. ``delivered``: messages times their listeners; ``repaired``: read after a gap."""

    delivered: int = 0
    repaired: int = 0
