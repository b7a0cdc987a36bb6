#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds kvm.ko, kvm-intel.ko and kvm-amd.ko with mbecguard, from Debian's kernel source against Debian's headers.
set -eu

usage() {
	cat <<-EOF
	usage: build.sh [--kernel RELEASE] [--headers DIR] [--source TREE] [--output DIR] [--jobs N]
	       build.sh --dry-run [--source TREE] [--patches SERIES] [--kernel RELEASE] [--headers DIR]

	  --kernel RELEASE  kernel to build for (default: the running one)
	  --headers DIR     its headers (default: /lib/modules/RELEASE/build, else /usr/src/linux-headers-RELEASE)
	  --source TREE     the kernel's source, of the same version as the headers: a tar file or a folder
	                    (default: /usr/src/linux-source-SERIES.tar.xz)
	  --output DIR      where the modules go; DIR/build is made anew (default: the current folder)
	  --jobs N          parallel jobs (default: one per processor)
	  --dry-run         only say whether the patches apply; with --source alone no headers are needed
	  --patches SERIES  with --dry-run: those of this series, to see how far they are from another one

	Status: 3 a patch does not apply, 4 KVM does not build, 5 no source, or one of another version; 1 anything else.
	EOF
}

# die TEXT [STATUS]
die() {
	echo "build.sh: $1" >&2
	exit "${2:-1}"
}

here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
release='' headers='' source='' patches='' output=. jobs=$(nproc) dry=''
while [ $# -gt 0 ]; do
	case $1 in
	--help) usage; exit 0 ;;
	--dry-run) dry=yes; shift; continue ;;
	--kernel | --headers | --source | --patches | --output | --jobs) [ $# -ge 2 ] || die "$1 needs a value" ;;
	*) usage >&2; exit 2 ;;
	esac
	case $1 in
	--kernel) release=$2 ;;
	--headers) headers=$2 ;;
	--source) source=$2 ;;
	--patches) patches=$2 ;;
	--output) output=$2 ;;
	--jobs) jobs=$2 ;;
	esac
	shift 2
done
[ -n "$dry" ] || [ -z "$patches" ] || die "--patches goes with --dry-run alone"

# The first of the places that exists.
first() {
	for place; do
		[ ! -e "$place" ] || { echo "$place"; return; }
	done
}

# A series with patches, of the version of a kernel.
series_of() {
	series=$(echo "$1" | cut -d. -f1,2)
	[ -f "$here/patches/${patches:-$series}.patch" ] ||
		die "no patch for kernel series $series; there are those of $(cd "$here/patches" && echo [0-9].*[0-9].patch | sed 's/\.patch//g')"
}

find_headers() {
	release=${release:-$(uname -r)}
	[ -n "$headers" ] || headers=$(first "/lib/modules/$release/build" "/usr/src/linux-headers-$release")
	[ -f "$headers/include/config/kernel.release" ] ||
		die "no headers of $release (apt install linux-headers-$release)"
	release=$(cat "$headers/include/config/kernel.release")
	version=$(make -s -C "$headers" kernelversion)
	series_of "$version"
}

# Debian patches KVM between two revisions of one version: the revisions must be equal as well.
check_revision() {
	built_from=$(sed -n 's/.*LINUX_PACKAGE_ID " Debian \(.*\)".*/\1/p' "$headers/include/generated/package.h")
	package=$(dpkg-query -S "$source" 2>/dev/null | cut -d: -f1) || package=''
	[ -n "$package" ] || return 0
	revision=$(dpkg-query -W -f '${Version}' "$package")
	[ "$revision" = "$built_from" ] ||
		die "$package is version $revision, but the headers of $release are $built_from: install the same version of both" 5
}

# What matters of the source, into $tree.
unpack() {
	if [ -d "$source" ]; then
		tar -C "$source" -c arch/x86/kvm virt/kvm Makefile | tar -x -C "$tree"
	else
		tar -xf "$source" -C "$tree" --strip-components=1 --wildcards --no-wildcards-match-slash \
			'*/arch/x86/kvm' '*/virt/kvm' '*/Makefile'
	fi || :
	[ -e "$tree/arch/x86/kvm/Makefile" ] && [ -e "$tree/virt/kvm" ] && [ -e "$tree/Makefile" ] ||
		die "$source has no arch/x86/kvm, virt/kvm and Makefile" 5
}

field() {
	sed -n "s/^$1 = *//p" "$tree/Makefile"
}

# apply PATCH: in a dry run what does not fit is told, and all the rest goes in.
apply() {
	patch ${dry:+-f} -p1 -F0 -d "$tree" <"$1" >"$tree.log" && return
	cat "$tree.log" >&2
	unfit="$unfit ${1#"$here/patches/"}"
	[ -n "$dry" ]
}

# apply_one_of PATCH...: the first that fits.
apply_one_of() {
	for patch; do
		! patch -f -p1 -F0 --dry-run -d "$tree" <"$patch" >"$tree.log" || { apply "$patch"; return; }
	done
	cat "$tree.log" >&2
	unfit="$unfit $(basename "$(dirname "$patch")")"
	[ -n "$dry" ]
}

# What a KVM lacks comes first: mode-based execute control, before 7.2. A folder SERIES-PLACE has the ways in which one
# place looks in the revisions of a series.
apply_all() {
	for patch in "$1-mbec.patch" "$1.patch"; do
		[ ! -f "$patch" ] || apply "$patch" || return 0
	done
	for place in "$1"-*/; do
		[ ! -d "$place" ] || apply_one_of "$place"*.patch || return 0
	done
}

[ -n "$dry" ] && [ -z "$release$headers" ] && [ -n "$source" ] || find_headers
[ -n "$source" ] || source=/usr/src/linux-source-$series.tar.xz
[ -e "$source" ] || die "no kernel source $source (apt install linux-source-$series)" 5
[ -z "$headers" ] || check_revision

if [ -n "$dry" ]; then
	output=$(mktemp -d)
	trap 'rm -rf "$output"' EXIT
fi
mkdir -p "$output"
output=$(CDPATH='' cd "$output" && pwd)
tree=$output/build
kvm=$tree/arch/x86/kvm
rm -rf "$tree" "$output/kvm.ko" "$output/kvm-intel.ko" "$output/kvm-amd.ko"
mkdir "$tree"
unpack
found=$(field VERSION).$(field PATCHLEVEL).$(field SUBLEVEL)
[ -n "$headers" ] || series_of "$found"
[ "${version:-$found}" = "$found" ] || die "$source is version $found, but the headers of $release are $version" 5
rm "$tree/Makefile"

unfit=''
apply_all "$here/patches/${patches:-$series}"
rm -f "$tree.log"
[ -z "$unfit" ] || die "${unfit# } does not apply to $source ($found)" 3
if [ -n "$dry" ]; then
	echo "build.sh: the patches of ${patches:-$series} apply to $source ($found)"
	exit 0
fi
cp "$here"/src/*.[ch] "$kvm"
# Out of the tree, $(srctree) is where the headers are; the check of exports at the end greps it for the sources.
# trace.h is included as ../../arch/x86/kvm/trace.h from some folder two levels deep.
# shellcheck disable=SC2016
sed -i -e 's,-I \$(srctree)/arch/x86/kvm,-I $(src) -I $(src)/../../../virt/kvm,' -e 's,\$(srctree)/virt/kvm,$(src)/../../../virt/kvm,' \
	-e '/^# Fail the build if there is unexpected EXPORT_SYMBOL_GPL/,$d' "$kvm/Makefile"
! grep -q srctree "$kvm/Makefile" || die "arch/x86/kvm/Makefile is not as expected: \$(srctree) is left in it" 3

make -C "$headers" M="$kvm" -j "$jobs" modules || die "KVM of $release does not build with the patches of $series" 4
for module in kvm kvm-intel kvm-amd; do
	strip --strip-debug -o "$output/$module.ko" "$kvm/$module.ko"
done
echo "$release" >"$output/RELEASE"
