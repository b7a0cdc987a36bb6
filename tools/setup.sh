#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Install what the project needs on a fresh Debian 12 or 13: system packages by apt, the rest into .venv by pip.
# Does nothing, quickly, when everything is there. Usage: tools/setup.sh [lab]   (lab: also what boots guests)
set -euo pipefail
cd "$(dirname "$0")/.."

# gcc, pkg-config, libsystemd: systemd-python is built from source. binutils, mandoc and the packers are oracles of the tests,
# chromium looks at pages.
packages="python3-venv python3-dev gcc pkg-config libsystemd-dev liblzo2-dev binutils mandoc xz-utils bzip2 lz4 lzop zstd"
[ "${1:-}" = lab ] && packages="$packages qemu-system-x86 ovmf mmdebstrap e2fsprogs busybox-static cpio patch mtools fdisk valgrind chromium-headless-shell"

missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "installing:$missing"
    sudo=""
    if [ "$(id -u)" != 0 ]; then
        sudo=sudo
    fi
    $sudo apt-get -qq update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $sudo apt-get -qq install -y --no-install-recommends $missing >/dev/null
fi

if [ ! -x .venv/bin/mbecguard ] || [ pyproject.toml -nt .venv/.installed ]; then
    echo "installing Python packages into .venv"
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -e '.[test]'
    touch .venv/.installed
fi
