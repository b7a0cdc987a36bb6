#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# install.sh DESTDIR: puts the agent, its units, manual, completions and default settings, and the sources of the kernel
# modules where a package has them. What the tables of the agent tell is generated here.
set -eu
root=$1
cd "$(dirname "$0")/.."
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/mbecguard/__init__.py)

put() { # MODE FOLDER FILE...
	mode=$1 folder=$2
	shift 2
	install -D -p -m "$mode" -t "$root$folder" "$@"
}

manual() { # WHAT FILE
	mkdir -p "$root$(dirname "$2")"
	PYTHONPATH=src python3 -B -m mbecguard.face.manual "$1" >"$root$2"
}

# The part of the agent that the host's program imports, in a place of its own: it needs neither the agent nor what that needs.
host() { # FOLDER
	PYTHONPATH=src python3 -B -c 'import sys, mbecguard.face.host_cli
for name, module in sorted(sys.modules.items()):
    if name.partition(".")[0] == "mbecguard": print(module.__file__)' | while read -r file; do
		file=${file#"$PWD"/}
		put 644 "$1/$(dirname "${file#src/}")" "$file"
	done
}

module() { # FOLDER VERSION
	name=$(sed -n 's/^PACKAGE_NAME="\(.*\)"$/\1/p' "$1/dkms.conf")
	target=$root/usr/src/$name-$2
	mkdir -p "$target"
	tar -C "$1" --exclude=tests --exclude=.gitignore --exclude=build-in-root.sh --exclude=README.md -c . | tar -C "$target" -x --no-same-owner
	sed -i "s/^PACKAGE_VERSION=.*/PACKAGE_VERSION=\"$2\"/" "$target/dkms.conf"
}

(cd src && find mbecguard -name '*.py' -o -path '*/reports/*.j2' -o -path '*/reports/*.css') | while read -r file; do
	put 644 "/usr/share/mbecguard/$(dirname "$file")" "src/$file"
done
put 644 /usr/share/mbecguard/schema docs/schema/*.json
put 644 /usr/share/mbecguard/prometheus packaging/prometheus/*
put 644 /usr/share/mbecguard/grafana packaging/grafana/*
put 755 /usr/bin packaging/mbecguard packaging/mbecguard-host
host /usr/share/mbecguard-host
put 644 /usr/share/mbecguard-host/schema docs/schema/host-check-*.json docs/schema/witness-*.json
put 644 /usr/lib/systemd/system systemd/*.service systemd/*.timer systemd/host/*.service systemd/host/*.timer
put 644 /usr/lib/systemd/system-preset systemd/*.preset
put 644 /usr/lib/systemd/catalog systemd/*.catalog
put 644 /usr/lib/modules-load.d packaging/mbecguard-shim.conf
manual man8 /usr/share/man/man8/mbecguard.8
manual toml5 /usr/share/man/man5/mbecguard.toml.5
manual bash /usr/share/bash-completion/completions/mbecguard
manual zsh "${ZSH_FUNCTIONS:-/usr/share/zsh/vendor-completions}/_mbecguard"
manual fish /usr/share/fish/vendor_completions.d/mbecguard.fish
manual host-man8 /usr/share/man/man8/mbecguard-host.8
manual host-bash /usr/share/bash-completion/completions/mbecguard-host
manual host-zsh "${ZSH_FUNCTIONS:-/usr/share/zsh/vendor-completions}/_mbecguard-host"
manual host-fish /usr/share/fish/vendor_completions.d/mbecguard-host.fish
manual default-toml /etc/mbecguard/mbecguard.toml
mkdir -p "$root/etc/mbecguard/mbecguard.toml.d"
module hypercall-shim "$version" # so that DKMS sees an update
module kvm-host 1                # always the same: nothing of DKMS's is removed by an upgrade
