/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MBECG_JUDGE_H
#define MBECG_JUDGE_H

#include "mbecg_abi.h"

#define MBECG_SITE_BYTES	6	/* the longest */

/* What a text object knows of itself. Offsets are from its first byte, modulo 2^32. */
struct mbecg_table {
	u32 nr_sites;
	u32 nr_targets;
	u32 ftrace[2];				/* what an mcount site may call */
	u32 hooks[2];				/* what a hook may call as well: from, to */
	const struct mbecg_site *sites;		/* ascending, disjoint */
	const u32 *targets;			/* starts of functions, ascending */
};

enum mbecg_verdict {
	MBECG_INT3,		/* byte 0 becomes a breakpoint */
	MBECG_TAIL,		/* bytes behind a breakpoint */
	MBECG_FORM,		/* one of the forms of the site stands there */
	MBECG_UNLISTED,		/* not inside one site */
	MBECG_FROZEN,
	MBECG_NO_INT3,		/* bytes behind a live first byte */
	MBECG_NO_TAIL,		/* no form of the site goes on so */
	MBECG_NO_FORM,
	MBECG_VERDICTS,
};

static inline bool mbecg_accepts(enum mbecg_verdict verdict)
{
	return verdict <= MBECG_FORM;
}

static inline u32 mbecg_site_kind(const struct mbecg_site *site)
{
	return site->kind_length >> 4;
}

static inline u32 mbecg_site_length(const struct mbecg_site *site)
{
	return site->kind_length & 15;
}

int mbecg_table_check(const struct mbecg_table *table, u64 size);
const struct mbecg_site *mbecg_site_at(const struct mbecg_table *table, u32 offset);
bool mbecg_site_stands(const struct mbecg_table *table, const struct mbecg_site *site,
		       const u8 *bytes);
enum mbecg_verdict mbecg_judge(const struct mbecg_table *table, const struct mbecg_site *site,
			       const u8 *bytes, u32 at, const u8 *value, u32 size);

#endif
