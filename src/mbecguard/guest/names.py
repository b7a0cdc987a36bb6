# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a guest tells which one it is; each of these may be absent, or for root alone."""

MACHINE_ID = "etc/machine-id"
HOSTNAME = "proc/sys/kernel/hostname"
VM_UUID = "sys/class/dmi/id/product_uuid"  #: as the hypervisor has it; a microvm has no DMI
SHIM_VERSION = "sys/module/mbecguard_shim/version"
NAMES = (MACHINE_ID, HOSTNAME, VM_UUID, SHIM_VERSION)
