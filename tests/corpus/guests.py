# SPDX-License-Identifier: GPL-2.0-or-later
"""The captured guests: one row each, data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guest:
    """One boot of a stock Debian cloud kernel under QEMU TCG."""

    name: str
    suite: str  #: Debian suite of the kernel
    cpu: str  #: QEMU CPU model
    cmdline: str = ""
    uefi: bool = False
    memory_mib: int = 2048
    steps: tuple[str, ...] = ()  #: functions of payload/steps.sh, run in order after the modules


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GUESTS: tuple[Guest, ...] = (
    Guest("bookworm-6.1", "bookworm", "Skylake-Client-v1", memory_mib=1536),
    Guest("trixie-6.12-a", "trixie", "Skylake-Client-v1", "pti=on", steps=("show_addresses",)),
    Guest(
        "trixie-6.12-b",
        "trixie",
        "Skylake-Client-v1",
        "pti=off",
        memory_mib=3072,
        steps=("trace_functions", "probe", "load_bpf"),
    ),
    Guest("trixie-6.12-uefi", "trixie", "Icelake-Server-v1", "crashkernel=128M", uefi=True),
    Guest("forky-7.2", "forky", "Skylake-Client-v1", steps=("load_bpf", "remove_modules")),
    Guest("forky-7.2-its", "forky", "Icelake-Server-v1", "setcpuid=ibrs_enhanced"),
)

#: One user space serves all kernels.
USERLAND_SUITE = "trixie"
USERLAND = _words(
    "systemd systemd-sysv udev dbus kmod iproute2 nftables bpftool busybox-static xz-utils zstd "
    "python3 python3-pyelftools python3-psutil python3-systemd python3-zstandard python3-lz4"
)

#: The suites whose Release file a mirror may let expire.
UNDATED_SUITES = frozenset({"forky"})

#: Timers and consoles that would change the guest while it is recorded, or only cost boot time.
MASKED_UNITS = _words(
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer "
    "systemd-tmpfiles-clean.timer getty@tty1.service serial-getty@ttyS0.service serial-getty@ttyS1.service "
    "systemd-firstboot.service e2scrub_reap.service systemd-pcrphase.service systemd-networkd-wait-online.service"
)

#: Loaded by name in every guest; a kernel may lack some of them.
MODULES = _words(
    "nf_tables nft_ct nft_nat nft_masq nft_redir nft_reject_inet nft_log nft_limit nft_quota nft_numgen nft_hash "
    "nft_fib_inet nft_tproxy nft_socket nft_flow_offload nft_compat nf_conntrack_netlink xt_conntrack xt_tcpudp "
    "ip_set ip_set_hash_ip ip_set_bitmap_port xfs btrfs vfat exfat isofs udf squashfs overlay fuse nfs nfsd cifs "
    "loop nbd zram dm_mod dm_crypt dm_snapshot dm_thin_pool dm_multipath dm_integrity dm_raid raid1 raid10 raid456 "
    "tls dummy bridge veth wireguard macvlan ipvlan vxlan geneve bonding team ifb tun 8021q ipip ip_gre ip6_tunnel sit "
    "sctp vsock vmw_vsock_virtio_transport sch_fq_codel sch_htb sch_ingress cls_bpf act_mirred "
    "iscsi_tcp scsi_debug virtio_scsi virtio_console virtio_balloon virtio_rng 9p 9pnet_virtio"
)
#: Removed again by the step `remove_modules`.
REMOVED_MODULES = _words("btrfs wireguard nbd udf 9pnet_virtio geneve exfat")


def find(name: str) -> Guest | None:
    """The guest of that name."""
    return next((guest for guest in GUESTS if guest.name == name), None)
