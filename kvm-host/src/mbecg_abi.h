/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MBECG_ABI_H
#define MBECG_ABI_H

#include <linux/types.h>

/* The contract with the guest: docs/HOST-ABI.md. List and numbers are of the Heki RFC v2. */

#define MBECG_HC_LOCK_CR_UPDATE	13
#define MBECG_HC_PROTECT_MEMORY	14
#define MBECG_QUERY_MAGIC	0x59524551494b4548ULL	/* "HEKIQERY" */

#define MBECG_READ		1
#define MBECG_WRITE		2
#define MBECG_EXEC		4
#define MBECG_IMMUTABLE		8
#define MBECG_RWX		(MBECG_READ | MBECG_WRITE | MBECG_EXEC)
#define MBECG_PERMISSIONS	(MBECG_RWX | MBECG_IMMUTABLE)
#define MBECG_ENFORCED		(MBECG_EXEC | MBECG_IMMUTABLE)

#define MBECG_RANGES_PER_PAGE	169
#define MBECG_MAX_LIST_PAGES	256
#define MBECG_MAX_BOUNDARIES	131072
#define MBECG_MAX_GRANTS	4096

#define MBECG_STATUS_MODE	4	/* bit positions in the answer to the query */
#define MBECG_STATUS_RESTRICTED	6
#define MBECG_STATUS_SEALED	7
#define MBECG_STATUS_VERSION	8
#define MBECG_STATUS_GENERATION	16
#define MBECG_STATUS_SMM_OPEN	48
#define MBECG_ABI_VERSION	3

/* Words of the extended query: MBECG_QUERY_MAGIC + n. None has bit 63 set. */
enum mbecg_word {
	MBECG_WORD_STATUS,
	MBECG_WORD_DIGEST,	/* the first of eight, 32 bits each */
	MBECG_WORD_DENIED = 9,
	MBECG_WORD_REFUSED,
	MBECG_WORD_CR0,
	MBECG_WORD_CR4,
	MBECG_WORD_LIST_PAGES,
	MBECG_WORD_BOUNDARIES,
	MBECG_WORD_TEXT,	/* since version 3 */
	MBECG_WORD_PATCHES,
	MBECG_WORD_BAD_STORES,
	MBECG_WORD_FOREIGN,
	MBECG_WORD_TEXT_DIGEST,	/* the first of eight, as above */
	MBECG_WORD_LAST_BAD = 27,
	MBECG_WORDS,
};

enum mbecg_mode { MBECG_OFF, MBECG_ENFORCE, MBECG_AUDIT };

/* Text objects: the first page of such a list, and what it says of each patch site. */
#define MBECG_TEXT_MAGIC	0x54584554494b4548ULL	/* "HEKITEXT" */
#define MBECG_TEXT_LIST_PAGES	1024
#define MBECG_TEXT_RECORDS	(1 << 20)	/* sites of one object, and targets */
#define MBECG_TEXT_PAGES	32768		/* of all objects of a VM */
#define MBECG_TEXT_OBJECTS	1024

#define MBECG_TEXT_LOG		1	/* flags of an object: illegal stores are counted, not refused */
#define MBECG_TEXT_DATA		2	/* it has no sites, and need not be executable */
#define MBECG_SITE_FROZEN	1	/* flag of a site: no store at all */

#define MBECG_TEXT_OFFERS	0	/* bit positions in MBECG_WORD_TEXT: an mbecg_text_mode */
#define MBECG_TEXT_HOLDS	2	/* the weakest of all objects; 0 without any */
#define MBECG_TEXT_NR		16	/* objects */
#define MBECG_TEXT_SIZE		32	/* their page frames */

enum mbecg_text_mode { MBECG_TEXT_OFF, MBECG_TEXT_LOGS, MBECG_TEXT_ENFORCES };
enum mbecg_text_part { MBECG_PART_HEAD = 1, MBECG_PART_SITES, MBECG_PART_TARGETS, MBECG_PART_RUNS };

enum mbecg_site_kinds {
	MBECG_SITE_JUMP = 1,	/* jump label */
	MBECG_SITE_CALL,	/* static call */
	MBECG_SITE_TAIL_CALL,	/* the same as a jump; the trampoline of a static call */
	MBECG_SITE_TAIL_JCC,	/* the same as a conditional jump */
	MBECG_SITE_MCOUNT,	/* the start of a traced function */
	MBECG_SITE_FTRACE_CALL,	/* in ftrace's own trampolines */
	MBECG_SITE_HOOK,	/* the start of a traced function that BPF programs hook */
};

struct mbecg_text_head {
	u64 pa;
	u64 epa;
	u32 nr_sites;
	u32 nr_targets;
	u32 ftrace[2];
	u32 flags;
	u32 nr_runs;		/* behind the first, which is here */
	u32 hooks[2];		/* from where to where a hook may lead, half-open, modulo 2^32 */
};

struct mbecg_site {
	u32 offset;
	u32 target;
	u16 key;		/* not looked at */
	u8 kind_length;		/* kind << 4 | bytes */
	u8 flags;
};

/* Page frames that are not adjacent to those before, and where in the object they lie. */
struct mbecg_text_run {
	u64 pa;
	u64 epa;
	u32 offset;
	u32 unused;
};

struct mbecg_text_page {
	u64 next;
	u64 next_pa;
	u64 npages;		/* 0: a host of version 1 or 2 refuses it as an empty list */
	u32 part;
	u32 nr;
	u8 data[4096 - 32];
};

struct mbecg_range {
	u64 pa;
	u64 epa;
	u64 permissions;
};

struct mbecg_list {
	u64 next;
	u64 next_pa;
	u64 npages;
	struct mbecg_range ranges[MBECG_RANGES_PER_PAGE];
	u64 unused[2];
};

#endif
