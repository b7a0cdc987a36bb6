#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Bring the guest into the state to record, record it, say so on the verdict port, then stand still.
cd /run/corpus || exit
. ./guest.env
. ./steps.sh

verdict() { echo "CORPUS-$1" >/dev/ttyS1; }
fail() { verdict "FAILED $*"; exec sleep infinity; }

systemctl is-system-running --wait
udevadm settle --timeout=60
for module in $MODULES; do
    modprobe -q "$module"
done
for step in $STEPS; do
    "$step" || fail "step $step"
done
settle || fail "the modules never came to rest"

mkdir -p out/guest
python3 oracle_facts.py out || fail "facts for the oracle"
python3 collect.py out/guest || fail "collector"
if [ -d src ]; then
    PYTHONPATH=src python3 product.py out/product || fail "the product's own capture"
fi
tar -cf /dev/vdc -C out . && sync || fail "tar"
verdict RECORDED
exec sleep infinity
