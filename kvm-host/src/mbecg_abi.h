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
#define MBECG_MAX_LIST_PAGES	32
#define MBECG_MAX_BOUNDARIES	16384
#define MBECG_MAX_GRANTS	4096

#define MBECG_STATUS_MODE	4	/* bit positions in the answer to the query */
#define MBECG_STATUS_RESTRICTED	6
#define MBECG_STATUS_SEALED	7
#define MBECG_STATUS_VERSION	8
#define MBECG_STATUS_GENERATION	16
#define MBECG_STATUS_SMM_OPEN	48
#define MBECG_ABI_VERSION	2

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
	MBECG_WORDS,
};

enum mbecg_mode { MBECG_OFF, MBECG_ENFORCE, MBECG_AUDIT };

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
