#!/bin/sh
# setup-venv.sh VENV LOCK: make VENV hold exactly what LOCK says, checked by hash, and this project in editable mode.
#
# A marker file exists in VENV while VENV is being changed. If it exists at the start, the last set-up was killed half-way,
# and the environment is rebuilt. pip's own configuration decides where packages come from.
#
# --no-deps, because LOCK names every package: to resolve an extra ("coverage[toml]") pip looks at newer releases, whose
# hashes are not in LOCK. `pip check` reports a package that LOCK lacks.
set -eu

venv=$1
lock=$2
marker=$venv/.unfinished
here=$(dirname "$0")

say() { echo "chatflow: $*" >&2; }

is_usable() {
    [ ! -e "$marker" ] &&
        "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

provide_venv_module() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        "$here/apt-install.sh" "python$version-venv" || "$here/apt-install.sh" python3-venv || true
    fi
    if ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        say "$1 lacks the modules venv and ensurepip: install them (Debian, Ubuntu: apt-get install python3-venv)"
        exit 1
    fi
}

if ! is_usable; then
    python=$("$here/find-python.sh")
    provide_venv_module "$python"
    say "creating $venv with $("$python" --version) ($python)"
    rm -rf "$venv"
    mkdir -p "$venv"
    : >"$marker"
    "$python" -m venv "$venv"
fi

say "installing $lock into $venv (half a minute, once)"
: >"$marker"
rm -f "$venv"/.ready-*
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
if ! { "$venv/bin/python" -m pip install --quiet --no-compile --no-deps --require-hashes -r "$lock" &&
    "$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation -e . &&
    "$venv/bin/python" -m pip check >&2; }; then
    # pip ended by itself and left no package half-installed: keep what is there for the next try.
    rm -f "$marker"
    say "pip could not install $lock, see above; run the same command again once that is cured"
    exit 1
fi
rm -f "$marker"
