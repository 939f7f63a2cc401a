#!/usr/bin/env bash
# Builds pulse-test/python, the stand-in for the official Python image on machines without access to a registry: Debian
# with its own Python 3.13, pip in /usr/local, and the trusted certificates of this machine. Takes a minute, as root.
set -euo pipefail
cd "$(dirname "$0")"
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3.13-venv,python3 \
    --customize-hook='mkdir -p "$1/usr/local/share/ca-certificates"' \
    --customize-hook='sync-in /usr/local/share/ca-certificates /usr/local/share/ca-certificates' \
    --customize-hook='chroot "$1" update-ca-certificates' \
    --customize-hook='chroot "$1" python3 -m venv /usr/local' \
    trixie - |
    docker import - pulse-test/python
