#!/bin/sh
# Provide the system programs that tests drive. As root on Debian and Ubuntu this installs what is missing; elsewhere it says
# what to install, and the tests that need it skip with a reason (with CI=true they fail).
set -u

here=$(dirname "$0")

has_browser() {
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" >/dev/null && return 0
    done
    [ -d "/Applications/Google Chrome.app" ] || [ -d /Applications/Chromium.app ]
}

has_galera() {
    for path in /usr/lib/galera /usr/lib64/galera-4 /usr/lib; do
        [ -e "$path/libgalera_smm.so" ] && command -v rsync >/dev/null && return 0
    done
    return 1
}

has() {
    command -v "$1" >/dev/null
}

# Server programs are not in every user's path.
PATH=$PATH:/usr/sbin:/usr/local/sbin
missing=
has_browser || missing="$missing chromium"
has haproxy || missing="$missing haproxy"
has mariadbd || missing="$missing mariadb-server"
has_galera || missing="$missing galera-4 rsync"
has rabbitmq-server || missing="$missing rabbitmq-server"
has debootstrap || missing="$missing debootstrap"
has redis-server || missing="$missing redis-server"

[ -n "$missing" ] || exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    # shellcheck disable=SC2086 # a list of names
    "$here/apt-install.sh" $missing && exit 0
fi
echo "chatflow: not installed:$missing. Install it (Debian, Ubuntu: sudo apt-get install$missing); tests that need it are skipped." >&2
