/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * /dev/mbecguard: how the agent reaches the host, and what only ring 0 can try.
 * Mechanism, no policy. Opening it takes CAP_SYS_ADMIN in the initial user
 * namespace.
 *
 * Every structure begins with its size in bytes as the caller knows it. A
 * shorter structure than the shim's gets EINVAL, a longer one is accepted if
 * what is beyond is zero (else E2BIG). Reserved fields and unknown flags have
 * to be zero (else EINVAL). Addresses and lengths are bytes, page-aligned.
 *
 * Results of hypercalls are handed through unchanged in `result`: 0 or
 * positive, or the host's negative error number (docs/HOST-ABI.md). The
 * ioctl's own errno tells that no hypercall was made:
 *   EPERM       switched off (mbecguard=off)
 *   EOPNOTSUPP  the hypervisor is not KVM; no hypercall is tried there
 *   EINVAL, E2BIG, EFAULT  the request is malformed
 *   ENOMEM, EINTR
 */
#ifndef MBECGUARD_UAPI_H
#define MBECGUARD_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define MBECGUARD_ABI		3
#define MBECGUARD_MAX_RANGES	43264	/* 256 list pages of 169 entries; the host may take fewer */
#define MBECGUARD_MAX_TEXT_PAGES	1024
#define MBECGUARD_TEXT_LINKS	24	/* bytes */

#define MBECGUARD_INFO_KVM	(1U << 0)	/* hypercalls reach KVM */
#define MBECGUARD_INFO_OFF	(1U << 1)	/* switched off on the command line */
#define MBECGUARD_INFO_HELD	(1U << 2)	/* new modules are refused */
#define MBECGUARD_INFO_SEALED	(1U << 3)	/* an immutable range was accepted: the shim stays, the hold too */

struct mbecguard_info {
	__u32 size;
	__u32 abi;		/* MBECGUARD_ABI */
	__u32 flags;		/* MBECGUARD_INFO_* */
	__u32 physical_bits;	/* MAXPHYADDR: the guest-physical space has 2^this bytes */
	__u64 canary_pa;	/* the page that exists to be denied */
	__u64 target_pa;	/* the page of text that exists to be written to: nothing but 0xcc */
	__u64 page_offset;	/* virtual address of physical 0 in the direct map */
	__u64 refused_modules;	/* loads refused since the shim was loaded */
	__u8 hypervisor[16];	/* CPUID 0x40000000, EBX ECX EDX, padded with 0; all 0 on bare metal */
};

/* An executable leaf, or a run of such that continue in VA and PA with equal flags. */
#define MBECGUARD_MAP_WRITABLE	(1U << 0)
#define MBECGUARD_MAP_USER	(1U << 1)
#define MBECGUARD_MAP_INT3	(1U << 2)	/* holds nothing but 0xcc */
#define MBECGUARD_MAP_THUNKS	(1U << 3)	/* holds nothing but 0xcc and `jmp *%reg` */

struct mbecguard_mapping {
	__u64 va;
	__u64 pa;
	__u64 bytes;
	__u32 flags;		/* MBECGUARD_MAP_* */
	__u32 reserved;
};

/*
 * Walk the kernel half of the kernel's page tables. Fills at most `count`
 * mappings, in the order of their addresses, from `from_va` on (0: all of the
 * kernel half). On return `count` tells how many, and `from_va` where to go on;
 * 0: that was all. `count` 0 gets EINVAL. With MBECGUARD_MAPPINGS_CONTENT
 * MAP_INT3 and MAP_THUNKS are told as well, and runs are split by them.
 */
#define MBECGUARD_MAPPINGS_CONTENT	(1U << 0)

struct mbecguard_mappings {
	__u32 size;
	__u32 flags;		/* MBECGUARD_MAPPINGS_* */
	__u64 from_va;
	__u64 mappings;		/* struct mbecguard_mapping * */
	__u32 count;
	__u32 reserved;
};

/* Permissions of a range: as in docs/HOST-ABI.md. */
#define MBECGUARD_READ		(1U << 0)
#define MBECGUARD_WRITE		(1U << 1)
#define MBECGUARD_EXEC		(1U << 2)
#define MBECGUARD_IMMUTABLE	(1U << 3)

struct mbecguard_range {
	__u64 pa;
	__u64 epa;		/* exclusive */
	__u64 permissions;
};

/* One hypercall for 1 to MBECGUARD_MAX_RANGES ranges; the host checks their content. */
struct mbecguard_protect {
	__u32 size;
	__u32 count;
	__u64 ranges;		/* struct mbecguard_range * */
	__s64 result;
};

/*
 * One hypercall that hands text over: 1 to MBECGUARD_MAX_TEXT_PAGES pages of
 * 4 KiB, as docs/HOST-ABI.md has them ("Text objects"). Their first
 * MBECGUARD_TEXT_LINKS bytes are the shim's. Once the host has taken text the shim stays.
 */
struct mbecguard_text {
	__u32 size;
	__u32 count;
	__u64 pages;
	__s64 result;
};

/* Ask the host for its mode and state; word 1 and up: of the extended query (docs/HOST-ABI.md), else EINVAL. */
#define MBECGUARD_MAX_WORD	255

struct mbecguard_query {
	__u32 size;
	__u32 word;
	__s64 result;
};

/* Have the host pin bits of CR0 or CR4 at 1, on every CPU. */
struct mbecguard_pin {
	__u32 size;
	__u32 cr;		/* 0 or 4 */
	__u64 bits;
	__s64 result;
};

/* What a probe of the kernel's own rights saw. */
#define MBECGUARD_RAN		0	/* it ran; of CLEAR and STORE: it took effect, and was taken back */
#define MBECGUARD_TRAPPED	1	/* an exception stopped it: `trap`, `cr2` */
#define MBECGUARD_LOOPED	2	/* it neither ran nor trapped; a timer took the CPU out of it */
#define MBECGUARD_UNCHANGED	3	/* of CLEAR and STORE: no exception, and no effect */
#define MBECGUARD_UNSUITABLE	4	/* of FETCH: no instruction there that could be tried safely */

/*
 * CANARY: run the canary page in kernel mode, on the calling CPU. `va` must be 0.
 * FETCH: run one RET instruction inside the page at `va`, an executable address
 * of the kernel's own or a module's text (else EINVAL).
 * CLEAR: try to clear `bits` of CR0 or CR4 on the calling CPU, as an attacker
 * would, and restore them at once; only CR0.WP and CR4.SMEP, SMAP, UMIP (else EINVAL).
 * EPERM: the kernel is locked down, and the host has not pinned the bits.
 * STORE: write one byte to the target page through a writable mapping of its
 * own; `va` becomes the address that was written to.
 * Of `va`, `cr` and `bits`, those that the kind does not name must be 0.
 */
#define MBECGUARD_PROBE_CANARY	0
#define MBECGUARD_PROBE_FETCH	1
#define MBECGUARD_PROBE_CLEAR	2
#define MBECGUARD_PROBE_STORE	3

struct mbecguard_probe {
	__u32 size;
	__u32 kind;		/* MBECGUARD_PROBE_* */
	__u64 va;
	__u32 cr;
	__u32 outcome;		/* MBECGUARD_RAN and so on */
	__u64 bits;
	__u64 cr2;		/* of exception 14, else 0 */
	__u32 trap;		/* exception number */
	__u32 reserved;
};

/*
 * Refuse (1) or allow (0) text of new modules. While held, loading a module
 * fails with EPERM and a line in the log. EBUSY: sealed, the hold stays.
 */
struct mbecguard_hold {
	__u32 size;
	__u32 held;
};

#define MBECGUARD_IOCTL_INFO		_IOWR('m', 0xe0, struct mbecguard_info)
#define MBECGUARD_IOCTL_MAPPINGS	_IOWR('m', 0xe1, struct mbecguard_mappings)
#define MBECGUARD_IOCTL_QUERY		_IOWR('m', 0xe2, struct mbecguard_query)
#define MBECGUARD_IOCTL_PROTECT		_IOWR('m', 0xe3, struct mbecguard_protect)
#define MBECGUARD_IOCTL_PIN		_IOWR('m', 0xe4, struct mbecguard_pin)
#define MBECGUARD_IOCTL_PROBE		_IOWR('m', 0xe5, struct mbecguard_probe)
#define MBECGUARD_IOCTL_HOLD		_IOW('m', 0xe6, struct mbecguard_hold)
#define MBECGUARD_IOCTL_TEXT		_IOWR('m', 0xe7, struct mbecguard_text)

/*
 * What an ioctl is goes by its type, number and direction; the size in it may be a later header's.
 * mmap() of one page at offset 0, PROT_READ or PROT_READ | PROT_EXEC: the
 * canary's page frame as a user page. Entered at its first byte as
 * `int canary(void)` it returns MBECGUARD_CANARY_VALUE.
 */
#define MBECGUARD_CANARY_VALUE	0x4d42

#endif
