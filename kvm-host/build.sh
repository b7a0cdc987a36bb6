#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds kvm.ko, kvm-intel.ko and kvm-amd.ko with mbecguard, from Debian's kernel source against Debian's headers.
set -eu

usage() {
	cat <<-EOF
	usage: build.sh [--kernel RELEASE] [--headers DIR] [--source TAR] [--output DIR] [--jobs N]

	  --kernel RELEASE  kernel to build for (default: the running one)
	  --headers DIR     its headers (default: /lib/modules/RELEASE/build, else /usr/src/linux-headers-RELEASE)
	  --source TAR      the kernel's source, of the same version as the headers
	                    (default: /usr/src/linux-source-SERIES.tar.xz)
	  --output DIR      where the modules go; DIR/build is made anew (default: the current folder)
	  --jobs N          parallel jobs (default: one per processor)
	EOF
}

die() {
	echo "build.sh: $1" >&2
	exit 1
}

here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
release=$(uname -r) headers='' source='' output=. jobs=$(nproc)
while [ $# -gt 0 ]; do
	case $1 in
	--help) usage; exit 0 ;;
	--kernel | --headers | --source | --output | --jobs) [ $# -ge 2 ] || die "$1 needs a value" ;;
	*) usage >&2; exit 2 ;;
	esac
	case $1 in
	--kernel) release=$2 ;;
	--headers) headers=$2 ;;
	--source) source=$2 ;;
	--output) output=$2 ;;
	--jobs) jobs=$2 ;;
	esac
	shift 2
done

# The first of the places that exists.
first() {
	for place; do
		[ ! -e "$place" ] || { echo "$place"; return; }
	done
}

[ -n "$headers" ] || headers=$(first "/lib/modules/$release/build" "/usr/src/linux-headers-$release")
[ -f "$headers/include/config/kernel.release" ] ||
	die "no headers of $release (apt install linux-headers-$release)"
release=$(cat "$headers/include/config/kernel.release")
version=$(make -s -C "$headers" kernelversion)
series=$(echo "$version" | cut -d. -f1,2)
[ -f "$here/patches/$series.patch" ] ||
	die "no patch for kernel series $series; there are those of $(cd "$here/patches" && echo [0-9].*[0-9].patch | sed 's/\.patch//g')"
[ -n "$source" ] || source=/usr/src/linux-source-$series.tar.xz
[ -f "$source" ] || die "no kernel source $source (apt install linux-source-$series)"

# Debian patches KVM between two revisions of one version: the revisions must be equal as well.
built_from=$(sed -n 's/.*LINUX_PACKAGE_ID " Debian \(.*\)".*/\1/p' "$headers/include/generated/package.h")
package=$(dpkg-query -S "$source" 2>/dev/null | cut -d: -f1) || package=''
if [ -n "$package" ]; then
	revision=$(dpkg-query -W -f '${Version}' "$package")
	[ "$revision" = "$built_from" ] ||
		die "$package is version $revision, but the headers of $release are $built_from: install the same version of both"
fi

mkdir -p "$output"
output=$(CDPATH='' cd "$output" && pwd)
tree=$output/build
kvm=$tree/arch/x86/kvm
rm -rf "$tree" "$output/kvm.ko" "$output/kvm-intel.ko" "$output/kvm-amd.ko"
mkdir "$tree"
tar -xf "$source" -C "$tree" --strip-components=1 --wildcards '*/arch/x86/kvm' '*/virt/kvm' 'linux-source-*/Makefile' ||
	die "$source has no arch/x86/kvm, virt/kvm and Makefile"

field() {
	sed -n "s/^$1 = *//p" "$tree/Makefile"
}
found=$(field VERSION).$(field PATCHLEVEL).$(field SUBLEVEL)
[ "$found" = "$version" ] || die "$source is version $found, but the headers of $release are $version"
rm "$tree/Makefile"

# What a KVM lacks comes first: mode-based execute control, before 7.2.
for patch in "$here/patches/$series-mbec.patch" "$here/patches/$series.patch"; do
	[ ! -f "$patch" ] || patch -s -p1 -F0 -d "$tree" <"$patch" || die "$patch does not apply to $source"
done
cp "$here"/src/*.[ch] "$kvm"
# Out of the tree, $(srctree) is where the headers are; the check of exports at the end greps it for the sources.
# trace.h is included as ../../arch/x86/kvm/trace.h from some folder two levels deep.
# shellcheck disable=SC2016
sed -i -e 's,-I \$(srctree)/arch/x86/kvm,-I $(src) -I $(src)/../../../virt/kvm,' -e 's,\$(srctree)/virt/kvm,$(src)/../../../virt/kvm,' \
	-e '/^# Fail the build if there is unexpected EXPORT_SYMBOL_GPL/,$d' "$kvm/Makefile"
! grep -q srctree "$kvm/Makefile" || die "arch/x86/kvm/Makefile is not as expected: \$(srctree) is left in it"

make -C "$headers" M="$kvm" -j "$jobs" modules
for module in kvm kvm-intel kvm-amd; do
	strip --strip-debug -o "$output/$module.ko" "$kvm/$module.ko"
done
echo "$release" >"$output/RELEASE"
