"""Open the audit trail of a process, and name whoever acts through the command line."""

import getpass
import os
import time
from pathlib import Path

from chatflow.adapters.audit_log import AuditLog
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Common


def open_audit_log(common: Common) -> AuditLog:
    """The trail that the settings name.

    Raises:
        StartError: its file cannot be opened.
    """
    path = Path(common.audit_log) if common.audit_log else None
    try:
        return AuditLog(time.monotonic, path, lines_per_s=common.audit_lines_per_s, facts={"pid": str(os.getpid())})
    except OSError as exc:
        raise StartError(f"CHATFLOW_AUDIT_LOG {path} cannot be written: {(exc.strerror or str(exc)).lower()}") from exc


def operator() -> str:
    """The account of this machine that runs a command, as `AuditTrail.acted` names it."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):  # a container's user need not have a name
        return f"cli:{os.getuid()}"
