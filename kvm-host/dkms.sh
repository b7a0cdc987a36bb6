#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Our KVM for each kernel of this host. It is built here, and only what has been built is given to DKMS, which signs and
# installs it, and takes it away with the kernel (dkms.conf: no AUTOINSTALL). So a build that fails is no failure of DKMS
# or of any package, and no KVM that works is removed for one that cannot be built. Why a kernel keeps its own is told
# now by `tell`, and later by `mbecguard-host check`, which reads $state/RELEASE/state.
# usage: dkms.sh renew | tell [RELEASE] | remove | build RELEASE | mend RELEASE
set -eu

state=${MBECGUARD_HOST_STATE:-/var/lib/mbecguard-host}
tree=${MBECGUARD_HOST_ROOT:-}
here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
modules='kvm kvm-intel kvm-amd'
debian='[0-9]+\.[0-9]+(\.[0-9]+)?\+deb[0-9]+(\.[0-9]+)*(-cloud|-rt)?-amd64' #: releases of its kernels; dkms.conf has them as well
room=32768 #: KiB that have to be free where modules are: three of them, and as much again while DKMS copies
not_for_this_kernel=77 #: of DKMS

by_dkms() { # RELEASE ACTION...
	release=$1
	shift
	dkms "$@" -m mbecguard-kvm -v 1 -k "$release" >>"$state/$release/log" 2>&1
}

# How many of our modules a kernel has.
ours() {
	there=0
	for module in $modules; do
		[ -z "$(find "$tree/lib/modules/$1/updates/dkms" -name "$module.ko*" 2>/dev/null)" ] || there=$((there + 1))
	done
	echo $there
}

all=$(echo "$modules" | wc -w)

# Why nothing is tried for a kernel: REASON PROBLEM.
unfit() {
	series=$(echo "$1" | sed -E 's/^([0-9]+\.[0-9]+).*/\1/')
	free=$(df --output=avail -k "$tree/lib/modules/$1" | tail -n 1)
	if ! echo "$1" | grep -Eqx "$debian"; then
		echo "foreign it is not a kernel of Debian's"
	elif [ ! -f "$here/patches/$series.patch" ]; then
		echo "series there is no patch for the kernels of $series"
	elif [ ! -d "$tree/lib/modules/$1/build/include" ]; then
		echo "headers its headers are missing: apt install linux-headers-${1##*[0-9]-}"
	elif [ "$free" -lt $room ]; then
		echo "room $free KiB are free in /lib/modules, and it takes $room"
	fi
}

# What modules are made of: our sources, and the revision of the kernel, if its headers are there.
sources() {
	(cd "$here" && find build.sh patches src -type f | LC_ALL=C sort | xargs cat | sha256sum)
}

revision() {
	sed -n 's/.*LINUX_PACKAGE_ID " *\(.*\)".*/\1/p' "$tree/lib/modules/$1/build/include/generated/package.h" 2>/dev/null || :
}

up_to_date() {
	{ read -r made && read -r from; } <"$state/$1/built" 2>/dev/null || return
	now=$(revision "$1")
	[ "$made" = "$(sources)" ] && [ "${now:-$from}" = "$from" ]
}

news='' #: kernels of which something new is to be told

# keeps RELEASE REASON PROBLEM: the KVM that it has.
keeps() {
	printf 'reason %s\nproblem %s\n' "$2" "$3" >"$state/$1/state.new"
	[ "$(head -n 2 "$state/$1/state" 2>/dev/null)" = "$(cat "$state/$1/state.new")" ] || news="$news $1"
	date -u '+when %FT%TZ' >>"$state/$1/state.new"
	mv "$state/$1/state.new" "$state/$1/state"
}

# make_modules RELEASE FOLDER
make_modules() {
	mkdir -p "$state/$1"
	: >"$state/$1/log"
	why=$(unfit "$1")
	if [ -n "$why" ]; then
		keeps "$1" "${why%% *}" "${why#* }"
		return 1
	fi
	status=0
	"$here/build.sh" --kernel "$1" --output "$2" >"$state/$1/log" 2>&1 || status=$?
	rm -rf "$2/build"
	case $status in
	0) return ;;
	3) why=patch ;;
	4) why=build ;;
	5) why=source ;;
	*) why=other ;;
	esac
	words=$(sed -n 's/^build\.sh: //p' "$state/$1/log" | tail -n 1)
	keeps "$1" $why "${words:-$(tail -n 1 "$state/$1/log")}"
	return 1
}

# In DKMS's build folder, before its own build, of which nothing is left to do.
build() {
	if [ -d "$state/$1/new" ]; then
		rm -rf out
		mv "$state/$1/new" out
	else
		make_modules "$1" out || { cat "$state/$1/log"; tell "$1"; exit $not_for_this_kernel; }
	fi
	{ sources; revision "$1"; } >"$state/$1/built"
	rm -f "$state/$1/state"
}

# Ours of one build or the stock ones, never a mixture: what an installation left that broke off is taken away again.
mend() {
	there=$(ours "$1")
	if [ "$there" = 0 ] || [ "$there" = "$all" ]; then
		return 0
	fi
	echo "mbecguard: $there of our modules of KVM for kernel $1 were left behind, and the others not: the stock ones are put back" >&2
	for module in $modules; do
		rm -f "$tree/lib/modules/$1/updates/dkms/$module.ko"*
	done
	for origin in "$tree/var/lib/dkms/mbecguard-kvm/original_module/$1"/*/*.origin; do
		[ -f "${origin%.origin}" ] || continue
		place=$tree$(cat "$origin")
		mkdir -p "$(dirname "$place")" # DKMS takes away folders that it has emptied
		mv "${origin%.origin}" "$place"
		rm -f "$origin"
	done
	[ -n "$tree" ] || depmod "$1"
}

# A kernel's package that came again has brought its own modules: DKMS would put back those of before one day.
forget_replaced() {
	for origin in "$tree/var/lib/dkms/mbecguard-kvm/original_module/$1"/*/*.origin; do
		[ ! -f "$origin" ] || [ ! -e "$tree$(cat "$origin")" ] || rm -f "${origin%.origin}" "$origin"
	done
}

# A KVM in the initramfs is the one that is loaded.
renew_initramfs() {
	image=$tree/boot/initrd.img-$1
	[ -f "$image" ] || return 0
	if command -v update-initramfs >/dev/null; then
		set -- lsinitramfs "update-initramfs -u -k $1"
	else
		set -- lsinitrd "dracut --force $image $1"
	fi
	! $1 "$image" 2>/dev/null | grep -q '/kvm\.ko' || $2 >&2 || echo "mbecguard: $2 failed: it may hold another KVM" >&2
}

# Built before the build of before is given up.
renew_one() {
	mend "$1"
	forget_replaced "$1"
	if [ "$(ours "$1")" = "$all" ] && up_to_date "$1"; then
		rm -f "$state/$1/state" "$state/$1/log"
		return 0
	fi
	rm -rf "$state/$1/new" "$state/$1/making"
	make_modules "$1" "$state/$1/making" || { rm -rf "$state/$1/making"; return 0; }
	mv "$state/$1/making" "$state/$1/new"
	by_dkms "$1" unbuild || :
	# Forced: DKMS of Debian 12 replaces no module whose version equals that of its own, and KVM's have none.
	if ! by_dkms "$1" install --force || [ "$(ours "$1")" != "$all" ]; then
		rm -rf "$state/$1/new"
		keeps "$1" other "DKMS does not install what was built"
		return 0
	fi
	echo "mbecguard: kernel $1 has our KVM" >&2
	renew_initramfs "$1"
}

kernels() {
	for folder in "$tree"/lib/modules/*; do
		[ ! -d "$folder/kernel" ] && [ ! -d "$folder/build/include" ] || basename "$folder"
	done
}

# For all kernels: what is missing, or made of something older.
renew() {
	mkdir -p "$state"
	exec 9>"$state/lock"
	flock 9
	[ -n "$(dkms status -m mbecguard-kvm -v 1)" ] || dkms add -m mbecguard-kvm -v 1 >&2
	for release in $(kernels); do
		renew_one "$release"
	done
	for folder in "$state"/*/; do
		[ -d "$tree/lib/modules/$(basename "$folder")" ] || rm -rf "$folder"
	done
	for release in $news; do
		tell "$release"
	done
}

tell() {
	for folder in "$state"/${1:-*}; do
		[ -f "$folder/state" ] || continue
		release=$(basename "$folder") keeps='its own KVM, so no guest can lock on it'
		[ "$(ours "$release")" != "$all" ] || keeps='the KVM of ours that it has, and gets no newer one'
		[ "$release" != "$(uname -r)" ] || release="$release, which runs,"
		cat >&2 <<-EOF
		mbecguard: kernel $release keeps $keeps
		  why:  $(sed -n 's/^problem //p' "$folder/state")
		  what to do: mbecguard-host check
		EOF
		[ ! -s "$folder/log" ] || echo "  log:  $folder/log" >&2
	done
}

# All of ours, for good.
remove() {
	had=$(for release in $(kernels); do [ "$(ours "$release")" = 0 ] || echo "$release"; done)
	for release in $had; do
		forget_replaced "$release"
	done
	[ -z "$(dkms status -m mbecguard-kvm -v 1)" ] || dkms remove -m mbecguard-kvm -v 1 --all
	for release in $had; do
		renew_initramfs "$release"
	done
}

case ${1:-} in
build | mend) "$1" "$2" ;;
renew | remove) "$1" ;;
tell) tell "${2:-}" ;;
*) sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2 ;;
esac
