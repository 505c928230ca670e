"""Other releases of Debian than the machine's, to run the servers that they ship.

debootstrap makes each root once, from the mirror that the machine's apt is configured for, in the user's cache
directory; delete it there to have it made anew. A server is started in a mount namespace of its own, where the root
also has the server's directory, ``/proc`` and ``/dev``: the mounts end with the server.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

from tests.harness.programs import PATH, absent

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatflow-roots"
BUILD_DEADLINE_S = 900.0
# What is mounted meanwhile, and everything that runs, ends with the command, however that ends.
_CONTAINED = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
# $1 is the root, $2 the directory to share with it, the rest is the command. exec keeps the pid.
_ENTER = """
root=$1 shared=$2
shift 2
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root$shared"
mount --bind "$shared" "$root$shared"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" "$@"
"""


class NoRoot(RuntimeError):
    """A root cannot be had on this machine; the message says why."""


@attrs.frozen
class Root:
    """A Debian release with some packages.

    Attributes:
        suite: the release's name, as ``trixie`` or ``sid``.
        packages: installed with what they depend on, and nothing that they recommend.
    """

    suite: str
    packages: tuple[str, ...]

    @property
    def path(self) -> Path:
        return CACHE / "-".join((self.suite, *self.packages))

    def provide(self) -> None:
        """Make the root unless it is there; takes about a minute. Other processes that want it wait.

        Raises:
            NoRoot: it cannot be made here.
        """
        if sys.platform != "linux" or os.geteuid() != 0:
            raise NoRoot("a root needs Linux and the rights of the user root")
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.path.exists():
                self._make()

    def inside(self, command: list[str], shared: Path) -> list[str]:
        """``command`` as run in the root, which sees the directory ``shared`` at the same path."""
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _ENTER, "enter-root"]
        return [*enter, str(self.path), str(shared), *command]

    def _make(self) -> None:
        if lacking := absent("debootstrap", "unshare", "apt-get"):
            raise NoRoot(f"no {', '.join(lacking)} found: install the packages debootstrap, util-linux and apt")
        for left in CACHE.glob("unfinished-*"):
            shutil.rmtree(left, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=CACHE))
        unfinished.chmod(0o755)
        _run(*_CONTAINED, "debootstrap", "--variant=minbase", self.suite, str(unfinished), _mirror())
        (unfinished / "etc/apt/apt.conf.d/99machine").write_text(_run("apt-config", "dump", "Acquire"))
        policy = unfinished / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")  # nothing starts when it is installed
        policy.chmod(0o755)
        _run(*_CONTAINED, "chroot", str(unfinished), "apt-get", "update", "-qq")
        _run(
            *_CONTAINED,
            "chroot",
            str(unfinished),
            "apt-get",
            "install",
            "-qq",
            "--no-install-recommends",
            *self.packages,
        )
        _run(*_CONTAINED, "chroot", str(unfinished), "apt-get", "clean")
        unfinished.rename(self.path)


def _mirror() -> str:
    """The address from which this machine's apt takes its own release."""
    codename = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    targets = _run("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)")
    for site, release, component in (line.split() for line in targets.splitlines()):
        if codename and (release, component) == (codename[1], "main"):
            return site
    raise NoRoot("apt is configured for no mirror of this machine's release")


def _run(*command: str) -> str:
    environ = {"PATH": PATH + ":/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    tried = " ".join(each for each in command if each not in _CONTAINED)
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=BUILD_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise NoRoot(f"no end within {BUILD_DEADLINE_S:g} s: {tried}") from exc
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise NoRoot(f"failed with {done.returncode}: {tried}: {' '.join(said)}")
    return done.stdout
