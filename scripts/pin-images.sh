#!/bin/sh
# Print the images of deployment/compose.yaml by digest, as variables for it: look at them, keep them in a file, and pass
# that with --env-file. Needs docker with buildx, and a registry.
set -eu

pin() { # VARIABLE IMAGE
    digest=$(docker buildx imagetools inspect "$2" --format '{{.Manifest.Digest}}')
    case $digest in
    sha256:*) echo "$1=${2%%:*}@$digest # $2" ;;
    *) echo "pin-images: no digest for $2" >&2 && exit 1 ;;
    esac
}

pin PYTHON_IMAGE python:3.11-slim-bookworm
pin RABBITMQ_IMAGE rabbitmq:4
pin MYSQL_IMAGE mysql:8
pin REDIS_IMAGE redis:7
pin HAPROXY_IMAGE haproxy:3.0
