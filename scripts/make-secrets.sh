#!/bin/sh
# Make the secrets of deployment/compose.yaml in a directory: one random password per service, the URLs that hold them, a
# key for tokens, and a certificate for localhost. Nothing that exists is replaced.
#
# The directory is its owner's alone. The files within are readable, because Compose mounts them as they are, for users of
# containers that this machine does not know.
set -eu

to=${1:?usage: scripts/make-secrets.sh DIRECTORY}
mkdir -p "$to"
chmod 700 "$to"
cd "$to"

new() { # NAME: reads the file's content
    if [ -e "$1" ]; then
        echo "kept $1"
    else
        (umask 077 && cat >"$1.new") && chmod 444 "$1.new" && mv "$1.new" "$1" && echo "made $1"
    fi
}

password() {
    openssl rand -hex 24
}

# Whether both files of a password are missing: the service's own, and the URL that holds it.
pair() { # FIRST SECOND
    if [ -e "$1" ] && [ -e "$2" ]; then
        echo "kept $1 and $2" && return 1
    elif [ -e "$1" ] || [ -e "$2" ]; then
        echo "make-secrets: of $1 and $2, which hold one password, one is missing: remove the other" >&2 && exit 1
    fi
}

if pair rabbitmq.conf broker_url; then
    secret=$(password)
    printf 'default_user = chatflow\ndefault_pass = %s\ndefault_vhost = chatflow\n' "$secret" | new rabbitmq.conf
    echo "amqp://chatflow:$secret@rabbitmq/chatflow" | new broker_url
fi
if pair mysql_password database_url; then
    secret=$(password)
    printf %s "$secret" | new mysql_password
    echo "mysql+asyncmy://chatflow:$secret@mysql/chatflow?charset=utf8mb4" | new database_url
fi
if pair redis.conf cache_url; then
    secret=$(password)
    printf 'requirepass %s\nsave ""\nmaxmemory 256mb\nmaxmemory-policy allkeys-lru\n' "$secret" | new redis.conf
    echo "redis://:$secret@redis/0" | new cache_url
fi
if [ -e jwt_secret ]; then
    echo "kept jwt_secret"
else
    password | new jwt_secret
fi
if [ ! -e certificate.pem ]; then
    (
        umask 077
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=localhost \
            -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.new -out certificate.new 2>/dev/null
        cat certificate.new key.new
        rm -f certificate.new key.new
    ) | new certificate.pem
fi
