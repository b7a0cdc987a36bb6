#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# What DKMS calls (dkms.conf), and the packages behind it. A kernel for which our KVM cannot be built keeps its own, apt
# goes on, and the administrator is told: now by `tell`, later by `mbecguard-host check`, which reads $state/RELEASE/state.
# usage: dkms.sh build RELEASE | mend RELEASE | tell [RELEASE] | again REASON
set -eu

state=${MBECGUARD_HOST_STATE:-/var/lib/mbecguard-host}
tree=${MBECGUARD_HOST_ROOT:-}
modules='kvm kvm-intel kvm-amd'
room=32768 #: KiB that have to be free where modules are: three of them, and as much again while DKMS copies
not_for_this_kernel=77 #: as the status of PRE_BUILD; with any other DKMS fails, and the kernel's package with it

# skip RELEASE REASON LOG: the last words of build.sh say why.
skip() {
	mkdir -p "$state/$1"
	mv "$3" "$state/$1/log"
	{
		echo "reason $2"
		sed -n 's/^build\.sh: /problem /p' "$state/$1/log" | tail -n 1
		date -u '+when %FT%TZ'
	} >"$state/$1/state.new"
	mv "$state/$1/state.new" "$state/$1/state"
	exit $not_for_this_kernel
}

# In DKMS's build folder, before its own build, of which nothing is left to do.
build() {
	status=0
	{
		free=$(df --output=avail -k "$tree/lib/modules/$1" | tail -n 1)
		if [ "$free" -lt $room ]; then
			echo "build.sh: $free KiB are free in /lib/modules, and it takes $room"
			status=room
		else
			./build.sh --kernel "$1" --output out || status=$?
		fi
	} >skipped.log 2>&1
	cat skipped.log
	case $status in
	0) rm -rf "${state:?}/$1" ;;
	3) skip "$1" patch skipped.log ;;
	4) skip "$1" build skipped.log ;;
	5) skip "$1" source skipped.log ;;
	room) skip "$1" room skipped.log ;;
	*) skip "$1" other skipped.log ;;
	esac
}

# Ours of one build or the stock ones, never a mixture: what an installation left that broke off is taken away again.
mend() {
	ours=$tree/lib/modules/$1/updates/dkms
	there=0
	for module in $modules; do
		[ -z "$(find "$ours" -name "$module.ko*" 2>/dev/null)" ] || there=$((there + 1))
	done
	if [ $there = 0 ] || [ $there = "$(echo "$modules" | wc -w)" ]; then
		return 0
	fi
	echo "mbecguard: $there of our modules of KVM for kernel $1 were left behind, and the others not: the stock ones are put back" >&2
	for module in $modules; do
		rm -f "$ours/$module.ko"*
	done
	for origin in "$tree/var/lib/dkms/mbecguard-kvm/original_module/$1"/*/*.origin; do
		[ ! -f "${origin%.origin}" ] || mv "${origin%.origin}" "$tree$(cat "$origin")"
		rm -f "$origin"
	done
	[ -n "$tree" ] || depmod "$1"
}

# For the terminal of whoever installs a kernel: DKMS has put all that was said into a file.
tell() {
	for folder in "$state"/${1:-*}; do
		[ -f "$folder/state" ] || continue
		cat >&2 <<-EOF
		mbecguard: kernel $(basename "$folder") keeps its own KVM, so no guest can lock on it
		  why:  $(sed -n 's/^problem //p' "$folder/state")
		  log:  $folder/log
		  what to do: mbecguard-host check
		EOF
	done
}

# again REASON: what was missing may have come.
again() {
	for folder in "$state"/*; do
		! grep -qx "reason $1" "$folder/state" 2>/dev/null || [ ! -d "$tree/lib/modules/$(basename "$folder")" ] ||
			dkms autoinstall -k "$(basename "$folder")" || :
	done
}

case ${1:-} in
build | mend | again) "$1" "$2" ;;
tell) tell "${2:-}" ;;
*) sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2 ;;
esac
