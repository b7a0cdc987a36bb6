#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# build-debs.sh [OUTDIR]: builds the Debian packages in a clean root; lintian must have nothing to complain about.
# OUTDIR (default: dist) gets the packages, their sources and lintian's words.
set -eu
out=$(realpath -m "${1:-$(dirname "$0")/../dist}")
cd "$(dirname "$0")/.."
. packaging/root.sh

# shellcheck disable=SC2016
build debs '
tar -xf sources.tar
cd mbecguard-$1
mv packaging/debian debian
dpkg-buildpackage -us -uc --ignore-builtin-builddeps
cd ..
lintian --allow-root --info --fail-on error,warning *.changes >out/lintian.txt || { cat out/lintian.txt >&2; exit 1; }
mv *.deb *.dsc *.tar.xz *.buildinfo *.changes out
' "$out"
