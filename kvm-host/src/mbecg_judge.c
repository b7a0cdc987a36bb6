// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which stores into kernel text are patches as Linux makes them, and which are
 * not. No KVM in here: tests/ builds this file in user space as well.
 */
#include <linux/errno.h>
#include <linux/minmax.h>
#include <linux/string.h>
#include <linux/types.h>

#include "mbecg_judge.h"

#define INT3	0xcc

enum goal { NOWHERE, SITE_TARGET, FUNCTION, FTRACE, HOOK };

/* What may stand at a site: given bytes, then the distance from its end to the goal. */
struct form {
	u8 kind;
	u8 length;
	u8 given;
	u8 mask;	/* of the last given byte */
	u8 goal;
	u8 bytes[MBECG_SITE_BYTES];
};

/* arch/x86/kernel/jump_label.c, static_call.c, ftrace.c of Linux 6.1 to 7.2. */
static const struct form forms[] = {
	{ MBECG_SITE_JUMP, 2, 2, 0xff, NOWHERE, { 0x66, 0x90 } },
	{ MBECG_SITE_JUMP, 2, 1, 0xff, SITE_TARGET, { 0xeb } },
	{ MBECG_SITE_JUMP, 5, 5, 0xff, NOWHERE, { 0x0f, 0x1f, 0x44, 0x00, 0x00 } },
	{ MBECG_SITE_JUMP, 5, 1, 0xff, SITE_TARGET, { 0xe9 } },
	{ MBECG_SITE_CALL, 5, 5, 0xff, NOWHERE, { 0x0f, 0x1f, 0x44, 0x00, 0x00 } },
	{ MBECG_SITE_CALL, 5, 5, 0xff, NOWHERE, { 0x2e, 0x2e, 0x2e, 0x31, 0xc0 } }, /* return 0 */
	{ MBECG_SITE_CALL, 5, 5, 0xff, NOWHERE, { 0x67, 0x48, 0x0f, 0xb9, 0x3a } }, /* WARN */
	{ MBECG_SITE_CALL, 5, 1, 0xff, FUNCTION, { 0xe8 } },
	{ MBECG_SITE_TAIL_CALL, 5, 5, 0xff, NOWHERE, { 0xc3, 0xcc, 0xcc, 0xcc, 0xcc } },
	{ MBECG_SITE_TAIL_CALL, 5, 1, 0xff, FUNCTION, { 0xe9 } },
	{ MBECG_SITE_TAIL_JCC, 6, 2, 0xf0, FUNCTION, { 0x0f, 0x80 } },
	{ MBECG_SITE_MCOUNT, 5, 5, 0xff, NOWHERE, { 0x0f, 0x1f, 0x44, 0x00, 0x00 } },
	{ MBECG_SITE_MCOUNT, 5, 1, 0xff, FTRACE, { 0xe8 } },
	{ MBECG_SITE_FTRACE_CALL, 5, 1, 0xff, FUNCTION, { 0xe8 } },
	{ MBECG_SITE_FTRACE_CALL, 5, 1, 0xff, FUNCTION, { 0xe9 } },
	{ MBECG_SITE_HOOK, 5, 5, 0xff, NOWHERE, { 0x0f, 0x1f, 0x44, 0x00, 0x00 } },
	{ MBECG_SITE_HOOK, 5, 1, 0xff, FTRACE, { 0xe8 } },
	{ MBECG_SITE_HOOK, 5, 1, 0xff, HOOK, { 0xe8 } },
	{ MBECG_SITE_HOOK, 5, 1, 0xff, HOOK, { 0xe9 } },
};

static bool is_target(const struct mbecg_table *table, u32 offset)
{
	u32 low = 0, high = table->nr_targets;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (table->targets[middle] < offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low < table->nr_targets && table->targets[low] == offset;
}

/* The site that @offset is in. */
const struct mbecg_site *mbecg_site_at(const struct mbecg_table *table, u32 offset)
{
	u32 low = 0, high = table->nr_sites;
	const struct mbecg_site *site;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (table->sites[middle].offset <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low)
		return NULL;
	site = &table->sites[low - 1];
	return offset - site->offset < mbecg_site_length(site) ? site : NULL;
}

/* Whether @to, of which @known low bytes are, could be where a distance from @end leads. */
static bool leads_to(u32 distance, u32 known, u32 end, u32 to)
{
	u32 mask = known < 4 ? (1U << 8 * known) - 1 : ~0U;

	return !((end + distance - to) & mask);
}

/* One or two bytes of a distance fit some function anywhere. */
static bool leads_to_function(const struct mbecg_table *table, u32 distance, u32 known, u32 end)
{
	u32 to = end + distance, high, last;

	if (known < 3)
		return true;
	if (known == 4)
		return is_target(table, to);
	if (!table->nr_targets)
		return false;
	last = table->targets[table->nr_targets - 1] >> 24;
	for (high = table->targets[0] >> 24; high <= last; high++)
		if (is_target(table, (to & 0xffffff) | high << 24))
			return true;
	return false;
}

/* The same of some place in [@from, @to). */
static bool leads_between(u32 distance, u32 known, u32 end, u32 from, u32 to)
{
	u32 mask = known < 4 ? (1U << 8 * known) - 1 : ~0U;

	return ((end + distance - from) & mask) < to - from;
}

static bool leads_there(const struct mbecg_table *table, const struct mbecg_site *site,
			const struct form *form, const u8 *bytes, u32 known)
{
	u32 end = site->offset + form->length, distance = 0, i;

	for (i = 0; i < known; i++)
		distance |= (u32)bytes[form->given + i] << 8 * i;
	switch (form->goal) {
	case SITE_TARGET:
		return leads_to(distance, known, end, site->target);
	case FUNCTION:
		return leads_to_function(table, distance, known, end);
	case FTRACE:
		return leads_to(distance, known, end, table->ftrace[0]) ||
		       leads_to(distance, known, end, table->ftrace[1]);
	case HOOK:
		return leads_between(distance, known, end, table->hooks[0], table->hooks[1]);
	}
	return true;
}

/* Whether @bytes [@from, @to) are as in @form. */
static bool goes_on(const struct mbecg_table *table, const struct mbecg_site *site,
		    const struct form *form, const u8 *bytes, u32 from, u32 to)
{
	u32 i;

	for (i = from; i < to && i < form->given; i++) {
		u8 mask = i == form->given - 1U ? form->mask : 0xff;

		if ((bytes[i] ^ form->bytes[i]) & mask)
			return false;
	}
	return to <= form->given ||
	       leads_there(table, site, form, bytes, to - form->given);
}

static bool some_form(const struct mbecg_table *table, const struct mbecg_site *site,
		      const u8 *bytes, u32 from, u32 to)
{
	const struct form *form;

	for (form = forms; form < forms + sizeof(forms) / sizeof(*forms); form++)
		if (form->kind == mbecg_site_kind(site) &&
		    form->length == mbecg_site_length(site) &&
		    goes_on(table, site, form, bytes, from, to))
			return true;
	return false;
}

/* Whether the site's @bytes are one of its forms. */
bool mbecg_site_stands(const struct mbecg_table *table, const struct mbecg_site *site,
		       const u8 *bytes)
{
	return some_form(table, site, bytes, 0, mbecg_site_length(site));
}

/*
 * A store of @size bytes, @at bytes into @site (NULL: into none), where @bytes
 * stand now. Linux puts a breakpoint over the first byte, then the new tail,
 * then the first byte (smp_text_poke_batch_finish()). Behind a breakpoint that
 * nobody takes away, a tail is code for whoever jumps there: so each of its
 * bytes has to go on as some form does.
 */
enum mbecg_verdict mbecg_judge(const struct mbecg_table *table, const struct mbecg_site *site,
			       const u8 *bytes, u32 at, const u8 *value, u32 size)
{
	u8 after[MBECG_SITE_BYTES];
	u32 length;

	if (!site)
		return MBECG_UNLISTED;
	length = mbecg_site_length(site);
	if (size > length - at)
		return MBECG_UNLISTED;
	if (site->flags & MBECG_SITE_FROZEN)
		return MBECG_FROZEN;
	memcpy(after, bytes, length);
	memcpy(after + at, value, size);
	if (at) {
		if (bytes[0] != INT3)
			return MBECG_NO_INT3;
		return some_form(table, site, after, 1, at + size) ? MBECG_TAIL : MBECG_NO_TAIL;
	}
	if (size == 1 && *value == INT3)
		return MBECG_INT3;
	return mbecg_site_stands(table, site, after) ? MBECG_FORM : MBECG_NO_FORM;
}

static bool known_kind(const struct mbecg_site *site)
{
	const struct form *form;

	for (form = forms; form < forms + sizeof(forms) / sizeof(*forms); form++)
		if (form->kind == mbecg_site_kind(site) && form->length == mbecg_site_length(site))
			return true;
	return false;
}

/* A distance of one byte has to reach its target, or it would lead elsewhere. */
static bool in_reach(const struct mbecg_site *site)
{
	u32 distance = site->target - (site->offset + mbecg_site_length(site));

	return mbecg_site_kind(site) != MBECG_SITE_JUMP || mbecg_site_length(site) > 2 ||
	       distance + 128 < 256;
}

/* Check a table of a text of @size bytes, as it came from a guest. */
int mbecg_table_check(const struct mbecg_table *table, u64 size)
{
	u64 end = 0;
	u32 i;

	for (i = 0; i < table->nr_sites; i++) {
		const struct mbecg_site *site = &table->sites[i];

		if (site->offset < end || !known_kind(site) || !in_reach(site) ||
		    site->flags & ~MBECG_SITE_FROZEN)
			return -EINVAL;
		end = (u64)site->offset + mbecg_site_length(site);
		if (end > size)
			return -EINVAL;
	}
	for (i = 1; i < table->nr_targets; i++)
		if (table->targets[i - 1] >= table->targets[i])
			return -EINVAL;
	return 0;
}
