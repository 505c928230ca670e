"""Private servers that tests may kill, stop and restart, and a TCP proxy that breaks the links between any two parts.

Nothing here touches a server that it did not start: every signal goes to a pid of its own, every file lies below one
temporary directory, every port is chosen free.
"""

from tests.harness.maria import MariaServer
from tests.harness.programs import ServerFailed
from tests.harness.proxy import Direction, FaultProxy
from tests.harness.rabbit import Queue, RabbitServer
from tests.harness.redis import RedisServer
from tests.harness.server import Guard, Server

__all__ = [
    "Direction",
    "FaultProxy",
    "Guard",
    "MariaServer",
    "Queue",
    "RabbitServer",
    "RedisServer",
    "Server",
    "ServerFailed",
]
