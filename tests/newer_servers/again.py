import types
from typing import Any


def taken_from(module: types.ModuleType, *, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """The tests and fixtures of a test module, for the namespace of another one; not its marks, and not ``but``."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("__") and name not in {"pytestmark", *but}
    }
