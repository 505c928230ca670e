#!/bin/sh
# Fail when a file that git tracks, or would add, records a package registry's address or a secret.
set -u

if ! git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    echo "tracked files: not a git work tree, nothing to check"
    exit 0
fi
bad=0
files=$(git ls-files --cached --others --exclude-standard --deduplicate)
forbidden=$(printf '%s\n' "$files" | grep -E '(^|/)(uv\.lock|pylock[^/]*\.toml|\.env|pip\.conf)$')
if [ -n "$forbidden" ]; then
    printf 'must not be tracked: %s\n' $forbidden
    bad=1
fi
# Written so that this file does not match itself.
address='https?:/''/[^[:space:]"]+(/simple(/|\b)|\.whl\b)|-''-(extra-)?index-url|-''-find-links|-''-trusted-host'
found=$(git grep -InE --untracked -e "$address" -- . ':!src/chatflow/web/vendor')
if [ -n "$found" ]; then
    printf 'records a registry address:\n%s\n' "$found"
    bad=1
fi
[ $bad = 0 ] && echo "tracked files: no registry addresses, no secrets"
exit $bad
