#!/bin/sh
# Print a Python of version 3.11 or later: $PYTHON if it is set, else the first of the usual names that runs. Names are
# tried by running them, because a version manager's shim may exist without its interpreter.
set -u

is_new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
found=
for name in ${PYTHON:-python3.13 python3.12 python3.11 python3.14 python3 python}; do
    version=$("$name" -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue
    if "$name" -c "$is_new_enough" 2>/dev/null; then
        command -v "$name"
        exit 0
    fi
    found="$found $name is $version,"
done
echo "chatflow needs Python 3.11 or later:${found:- no Python was found under \"${PYTHON:-python3}\",} install one or set PYTHON=/path/to/python3" >&2
exit 1
