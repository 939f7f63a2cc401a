#!/usr/bin/env bash
# Makes pulse-test/python, which stands in for the official Python image where no registry of images can be reached:
# Debian with its own Python 3.13, pip in /usr/local, and the certificates that this machine trusts. A minute, as root.
set -euo pipefail
cd "$(dirname "$0")"
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3.13-venv,python3 \
    --customize-hook='mkdir -p "$1/usr/local/share/ca-certificates"' \
    --customize-hook='sync-in /usr/local/share/ca-certificates /usr/local/share/ca-certificates' \
    --customize-hook='chroot "$1" update-ca-certificates' \
    --customize-hook='chroot "$1" python3 -m venv /usr/local' \
    trixie - |
    docker import - pulse-test/python
