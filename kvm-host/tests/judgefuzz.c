// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Random stores into random texts, judged and judged again by a naive model
 * that writes out every form of every site; the two must agree. Half of the
 * stores are steps of a patch. judgefuzz SEED STORES
 */
#include <errno.h>
#include <string.h>

#include "mbecg_judge.h"

#define ROUND	"store"
#include "fuzz.h"

#define SIZE		4096U
#define MAX_SITES	24
#define MAX_TARGETS	6
#define MAX_HOOKS	600
#define MAX_FORMS	(MAX_TARGETS * 16 + 8 + 2 * MAX_HOOKS)

struct text {
	u8 bytes[SIZE + 8];
	struct mbecg_site sites[MAX_SITES];
	u32 targets[MAX_TARGETS];
	struct mbecg_table table;
};

static const struct { u8 kind, length; } shapes[] = {
	{ MBECG_SITE_JUMP, 2 }, { MBECG_SITE_JUMP, 5 }, { MBECG_SITE_CALL, 5 },
	{ MBECG_SITE_TAIL_CALL, 5 }, { MBECG_SITE_TAIL_JCC, 6 }, { MBECG_SITE_MCOUNT, 5 },
	{ MBECG_SITE_FTRACE_CALL, 5 }, { MBECG_SITE_HOOK, 5 },
};

static int ascending(const void *a, const void *b)
{
	return *(const u32 *)a < *(const u32 *)b ? -1 : *(const u32 *)a > *(const u32 *)b;
}

static void new_text(struct text *text)
{
	u32 i, at = below(8), nr = 1 + below(MAX_SITES), hooks = below(2) ? below(~0U) : -below(300);

	memset(text, 0, sizeof(*text));
	for (i = 0; i < SIZE; i++)
		text->bytes[i] = below(256);
	for (i = 0; i < MAX_TARGETS; i++)
		text->targets[i] = (u32)below(1 << 24) | (u32)below(3) << 24 | i;
	qsort(text->targets, MAX_TARGETS, sizeof(u32), ascending);
	for (i = 0; i < nr; i++) {
		u32 shape = below(sizeof(shapes) / sizeof(*shapes));
		struct mbecg_site *site = &text->sites[i];

		site->offset = at;
		site->kind_length = shapes[shape].kind << 4 | shapes[shape].length;
		site->target = at + shapes[shape].length - 128 + below(256);
		if (shapes[shape].length == 5 && below(2))
			site->target = below(~0U);
		site->flags = !below(6);
		at += shapes[shape].length + (below(2) ? 0 : below(60));
	}
	text->table = (struct mbecg_table){
		nr, MAX_TARGETS, { below(SIZE), below(SIZE) }, { hooks, hooks + below(MAX_HOOKS) },
		text->sites, text->targets,
	};
	CHECK(!mbecg_table_check(&text->table, SIZE));
}

static u32 add(u8 (*forms)[6], u32 nr, const char *bytes, u32 length)
{
	memcpy(forms[nr], bytes, length);
	return nr + 1;
}

static u32 add_branch(u8 (*forms)[6], u32 nr, const char *opcode, u32 given, u32 end, u32 to,
		      u32 width)
{
	u32 distance = to - end;

	memcpy(forms[nr], opcode, given);
	memcpy(forms[nr] + given, &distance, width);
	return nr + 1;
}

/* All that may stand at a site. */
static u32 write_out(const struct text *text, const struct mbecg_site *site, u8 (*forms)[6])
{
	u32 kind = site->kind_length >> 4, length = site->kind_length & 15;
	u32 end = site->offset + length, nr = 0, i, condition;

	if (kind == MBECG_SITE_JUMP && length == 2) {
		nr = add(forms, nr, "\x66\x90", 2);
		return add_branch(forms, nr, "\xeb", 1, end, site->target, 1);
	}
	if (kind == MBECG_SITE_JUMP || kind == MBECG_SITE_CALL || kind == MBECG_SITE_MCOUNT ||
	    kind == MBECG_SITE_HOOK)
		nr = add(forms, nr, "\x0f\x1f\x44\0\0", 5);
	if (kind == MBECG_SITE_JUMP)
		nr = add_branch(forms, nr, "\xe9", 1, end, site->target, 4);
	if (kind == MBECG_SITE_CALL) {
		nr = add(forms, nr, "\x2e\x2e\x2e\x31\xc0", 5);
		nr = add(forms, nr, "\x67\x48\x0f\xb9\x3a", 5);
	}
	if (kind == MBECG_SITE_TAIL_CALL)
		nr = add(forms, nr, "\xc3\xcc\xcc\xcc\xcc", 5);
	for (i = 0; (kind == MBECG_SITE_MCOUNT || kind == MBECG_SITE_HOOK) && i < 2; i++)
		nr = add_branch(forms, nr, "\xe8", 1, end, text->table.ftrace[i], 4);
	for (i = text->table.hooks[0]; kind == MBECG_SITE_HOOK && i != text->table.hooks[1]; i++) {
		nr = add_branch(forms, nr, "\xe8", 1, end, i, 4);
		nr = add_branch(forms, nr, "\xe9", 1, end, i, 4);
	}
	for (i = 0; i < MAX_TARGETS; i++) {
		if (kind == MBECG_SITE_CALL || kind == MBECG_SITE_FTRACE_CALL)
			nr = add_branch(forms, nr, "\xe8", 1, end, text->targets[i], 4);
		if (kind == MBECG_SITE_TAIL_CALL || kind == MBECG_SITE_FTRACE_CALL)
			nr = add_branch(forms, nr, "\xe9", 1, end, text->targets[i], 4);
		if (kind != MBECG_SITE_TAIL_JCC)
			continue;
		for (condition = 0x80; condition < 0x90; condition++) {
			char opcode[] = { 0x0f, condition };

			nr = add_branch(forms, nr, opcode, 2, end, text->targets[i], 4);
		}
	}
	return nr;
}

/* The known low bytes of a distance: one or two fit some function anywhere. */
static bool free_to_choose(const struct mbecg_site *site, const u8 *after, u32 to)
{
	u32 kind = site->kind_length >> 4, given = kind == MBECG_SITE_TAIL_JCC ? 2 : 1;

	if (kind == MBECG_SITE_TAIL_JCC && (after[1] & 0xf0) != 0x80)
		return false;
	return (kind == MBECG_SITE_CALL || kind == MBECG_SITE_TAIL_CALL ||
		kind == MBECG_SITE_TAIL_JCC || kind == MBECG_SITE_FTRACE_CALL) && to - given < 3;
}

static enum mbecg_verdict model(const struct text *text, u32 offset, const u8 *value, u32 size)
{
	const struct mbecg_site *site = NULL;
	u8 forms[MAX_FORMS][6], after[6];
	u32 i, nr, at, length;

	for (i = 0; i < text->table.nr_sites; i++)
		if (offset >= text->sites[i].offset &&
		    offset + size <= text->sites[i].offset + (text->sites[i].kind_length & 15))
			site = &text->sites[i];
	if (!site)
		return MBECG_UNLISTED;
	if (site->flags)
		return MBECG_FROZEN;
	at = offset - site->offset;
	length = site->kind_length & 15;
	memcpy(after, text->bytes + site->offset, length);
	memcpy(after + at, value, size);
	if (at && text->bytes[site->offset] != 0xcc)
		return MBECG_NO_INT3;
	if (!at && size == 1 && *value == 0xcc)
		return MBECG_INT3;
	nr = write_out(text, site, forms);
	for (i = 0; i < nr; i++) {
		if (!at && !memcmp(after, forms[i], length))
			return MBECG_FORM;
		if (at && !memcmp(after + 1, forms[i] + 1, at + size - 1))
			return MBECG_TAIL;
	}
	if (at && free_to_choose(site, after, at + size))
		return MBECG_TAIL;
	return at ? MBECG_NO_TAIL : MBECG_NO_FORM;
}

/* A store that a patch of some site could begin, go on or end with; or one at random. */
static u32 random_store(const struct text *text, u8 *value, u32 *size)
{
	const struct mbecg_site *site = &text->sites[below(text->table.nr_sites)];
	u32 length = site->kind_length & 15, at = below(length), i;
	u32 edge = below(2) ? text->table.hooks[0] - 1 : text->table.hooks[1];
	u8 forms[MAX_FORMS][6], beyond[1][6];
	const u8 *form = forms[below(write_out(text, site, forms))];

	if (site->kind_length >> 4 == MBECG_SITE_HOOK && !below(3)) {
		add_branch(beyond, 0, below(2) ? "\xe8" : "\xe9", 1, site->offset + length, edge, 4);
		form = beyond[0];
	}
	if (!below(4)) {
		*size = 1 + below(8);
		for (i = 0; i < *size; i++)
			value[i] = below(3) ? below(256) : 0xcc;
		return below(4) ? below(SIZE - 8) : site->offset + at;
	}
	if (!below(4)) {
		*size = 1;
		*value = 0xcc;
		return site->offset;
	}
	*size = 1 + below(length - at);
	memcpy(value, form + at, *size);
	if (!below(8))
		value[below(*size)] ^= 1 << below(8);
	return site->offset + at;
}

static u64 one_text(u64 *accepted)
{
	struct text text;
	u64 i;

	new_text(&text);
	for (i = 0; i < 200; i++, round_nr++) {
		u8 value[8];
		u32 size, offset = random_store(&text, value, &size);
		const struct mbecg_site *site = mbecg_site_at(&text.table, offset);
		u32 at = site ? offset - site->offset : 0;
		enum mbecg_verdict verdict = mbecg_judge(&text.table, site,
							 text.bytes + (site ? site->offset : 0),
							 at, value, size);

		CHECK(verdict == model(&text, offset, value, size));
		if (!mbecg_accepts(verdict))
			continue;
		memcpy(text.bytes + offset, value, size);
		accepted[verdict]++;
		if (verdict == MBECG_FORM)
			CHECK(mbecg_site_stands(&text.table, site, text.bytes + site->offset));
	}
	return i;
}

/* Tables that no host may take. */
static void check_tables(void)
{
	static const struct mbecg_site good = { 10, 15, 0, MBECG_SITE_JUMP << 4 | 5, 0 };
#define CALL(at) { at, 0, 0, MBECG_SITE_CALL << 4 | 5, 0 }
	static const struct mbecg_site bad[][2] = {
		{ { 10, 15, 0, MBECG_SITE_JUMP << 4 | 3, 0 }, CALL(20) },
		{ { 10, 15, 0, 5, 0 }, CALL(20) },
		{ { 10, 15, 0, 15 << 4 | 5, 0 }, CALL(20) },
		{ { 10, 15, 0, MBECG_SITE_JUMP << 4 | 5, 2 }, CALL(20) },
		{ { 10, 15, 0, MBECG_SITE_JUMP << 4 | 5, 0 }, CALL(14) },
		{ { 20, 15, 0, MBECG_SITE_JUMP << 4 | 5, 0 }, CALL(10) },
		{ { 10, 140, 0, MBECG_SITE_JUMP << 4 | 2, 0 }, CALL(20) },
		{ { 10, 15, 0, MBECG_SITE_JUMP << 4 | 5, 0 }, CALL(28) },
		{ { 10, 15, 0, MBECG_SITE_JUMP << 4 | 5, 0 }, CALL(~3U) },
	};
	static const u32 targets[] = { 1, 1 };
	struct mbecg_table table = { .nr_sites = 1, .sites = &good };
	u32 i;

	CHECK(!mbecg_table_check(&table, 15) && mbecg_table_check(&table, 14) == -EINVAL);
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		table = (struct mbecg_table){ .nr_sites = 2, .sites = bad[i] };
		CHECK(mbecg_table_check(&table, 32) == -EINVAL);
	}
	table = (struct mbecg_table){ .nr_targets = 2, .targets = targets };
	CHECK(mbecg_table_check(&table, 32) == -EINVAL);
	table.nr_targets = 1;
	CHECK(!mbecg_table_check(&table, 32));
}

int main(int argc, char **argv)
{
	u64 accepted[MBECG_VERDICTS] = {}, stores;

	if (argc != 3)
		return 2;
	state = strtoull(argv[1], NULL, 10) * 0x9e3779b97f4a7c15ULL | 1;
	stores = strtoull(argv[2], NULL, 10);
	check_tables();
	while (round_nr < stores)
		one_text(accepted);
	printf("stores %llu int3 %llu tail %llu form %llu\n", (unsigned long long)round_nr,
	       (unsigned long long)accepted[MBECG_INT3], (unsigned long long)accepted[MBECG_TAIL],
	       (unsigned long long)accepted[MBECG_FORM]);
	return 0;
}
