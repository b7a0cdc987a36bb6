#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# build-rpms.sh [OUTDIR]: builds the RPM packages in a Debian root. OUTDIR (default: dist) gets them, and what is in each.
set -eu
out=$(realpath -m "${1:-$(dirname "$0")/../dist}")
cd "$(dirname "$0")/.."
. packaging/root.sh

# There is no database of RPMs on Debian to look the requirements up in.
# shellcheck disable=SC2016
build rpms '
gzip -n sources.tar
mv sources.tar.gz mbecguard-$1.tar.gz
rpmbuild -ta --nodeps --define "_topdir /build/rpm" mbecguard-$1.tar.gz
for package in rpm/RPMS/noarch/*.rpm; do rpm -qplv $package >out/$(basename $package).list; done
mv rpm/RPMS/noarch/*.rpm rpm/SRPMS/*.rpm out
' "$out"
