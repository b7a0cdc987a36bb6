# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh
# Sourced by build-*.sh: builds in a clean Debian root, once for one content of the sources.
# Needs root, mmdebstrap and debian-archive-keyring. $MBECGUARD_CACHE: where root and results are kept.
suite=trixie
needs=debhelper,dh-dkms,dh-python,lintian,rpm,python3-lz4,python3-psutil,python3-pyelftools,python3-systemd,python3-zstandard
parts="CHANGES.md COPYING README.md SECURITY.md docs hypercall-shim kvm-host packaging src systemd"
cache=${MBECGUARD_CACHE:-$HOME/.cache/mbecguard}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/mbecguard/__init__.py)
released=$(sed -n '0,/^ -- /s/^ -- .*>  //p' packaging/debian/changelog)

# shellcheck disable=SC2016
make_root() {
	site=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(CODENAME) $(SITE)' |
		sed -n 's/^Debian main [^- ]* //p' | head -n 1)
	[ -n "$site" ] || { echo "$0: no Debian archive among the apt sources" >&2; exit 1; }
	rm -rf "$root.partial"
	mmdebstrap --quiet --variant=minbase --include="$needs" \
		$suite "$root.partial" "deb [signed-by=$keyring] $site $suite main"
	mv "$root.partial" "$root"
}

# What git knows or does not ignore; all of it where there is no git. The same content gives the same bytes.
pack() { # FILE
	# shellcheck disable=SC2086
	{ git ls-files -zco --exclude-standard -- $parts 2>/dev/null || find $parts -type f -print0; } | sort -z |
		tar --exclude=__pycache__ --ignore-failed-read --transform="s,^,mbecguard-$version/," \
			--owner=0 --group=0 --numeric-owner --mode=go=u-w --mtime="$released" --null --files-from=- -cf "$1"
}

# build KIND SCRIPT OUTDIR: runs SCRIPT in /build of the root, with the sources in sources.tar; what it leaves in /build/out
# is copied to OUTDIR.
build() {
	mkdir -p "$cache" "$3"
	exec 9>"$cache/packages.lock"
	flock -w 1800 9
	root=$cache/packages-root-$(echo "$suite $needs" | sha256sum | cut -c -16)
	[ -d "$root" ] || make_root
	rm -rf "$root/build"
	mkdir "$root/build"
	pack "$root/build/sources.tar"
	result=$cache/$1-$({ echo "$root $2"; cat "$root/build/sources.tar"; } | sha256sum | cut -c -16)
	if [ ! -d "$result" ]; then
		# In a mount namespace of its own nothing stays mounted.
		# shellcheck disable=SC2016
		unshare --mount sh -ec 'mount -t proc proc "$1/proc"; exec chroot "$1" env -i \
			PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/build LC_ALL=C.UTF-8 sh -euc "cd /build; mkdir out; $3" sh "$2"' \
			sh "$root" "$version" "$2"
		mv "$root/build/out" "$result"
	fi
	rm -rf "$root/build"
	cp "$result"/* "$3"
}
