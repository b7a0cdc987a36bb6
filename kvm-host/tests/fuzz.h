/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the fuzzers share; ROUND is what they call one try. */
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition) \
	do { if (!(condition)) fail(#condition, __LINE__); } while (0)

static u64 state, round_nr;

static void fail(const char *what, int line)
{
	fprintf(stderr, ROUND " %llu, line %d: %s\n", (unsigned long long)round_nr, line, what);
	exit(1);
}

/* xorshift64 */
static u64 below(u64 limit)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % limit;
}
