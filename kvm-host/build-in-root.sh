#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# For the lab and for a check on any Debian machine: builds the modules for the newest cloud kernel of a series in a
# root of its own. Needs root, mmdebstrap and debian-archive-keyring.
# Usage: build-in-root.sh SERIES [JOBS [FOLDER]]   (FOLDER: $MBECGUARD_CACHE/kvm-modules/SERIES)
# Result: FOLDER/{kvm,kvm-intel,kvm-amd}.ko, and READY with the kernel release, written last.
set -eu
series=$1
case $series in
6.12) suite=trixie ;;
7.2) suite=forky ;;
*) echo "build-in-root.sh: no Debian suite is known for kernel series $series" >&2; exit 2 ;;
esac
here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
cache=${MBECGUARD_CACHE:-$HOME/.cache/mbecguard}
root=$cache/kvm-build-root-$series
modules=${3:-$cache/kvm-modules/$series}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# shellcheck disable=SC2016
make_root() {
	site=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(CODENAME) $(SITE)' |
		sed -n 's/^Debian main [^- ]* //p' | head -n 1)
	[ -n "$site" ] || { echo "build-in-root.sh: no Debian archive among the apt sources" >&2; exit 1; }
	mkdir -p "$cache"
	rm -rf "$root.partial"
	# Names by search: the packages' version moves. A testing suite's Release file expires on slow mirrors.
	mmdebstrap --quiet --variant=minbase --include=gcc,make,libc6-dev,libelf-dev,bc,kmod,pahole,xz-utils,patch \
		--customize-hook='chroot "$1" sh -ec "apt-get -q install -y --no-install-recommends linux-source-'$series' \
			\$(apt-cache pkgnames linux-headers-'$series' | grep -e -cloud-amd64\$ | sort -V | tail -n 1)"' \
		$suite "$root.partial" "deb [check-valid-until=no signed-by=$keyring] $site $suite main"
	mv "$root.partial" "$root"
}

[ -d "$root" ] || make_root
release=$(cd "$root/usr/src" && echo linux-headers-*-cloud-amd64)
rm -rf "$root/kvm-host" "$root/out"
cp -a "$here" "$root/kvm-host"
# objtool reads /proc; in a mount namespace of its own nothing stays mounted.
# shellcheck disable=SC2016
unshare --mount sh -ec 'mount -t proc proc "$1/proc"; exec chroot "$@"' sh "$root" \
	/kvm-host/build.sh --kernel "${release#linux-headers-}" --output /out --jobs "${2:-$(nproc)}"

mkdir -p "$modules"
rm -f "$modules/READY"
cp "$root"/out/*.ko "$modules/"
cp "$root/out/RELEASE" "$modules/READY"
rm -rf "$root/out"
