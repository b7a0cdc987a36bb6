/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MBECG_CANARY_H
#define MBECG_CANARY_H

/* What mbecg_enter() returns in RAX, if it is no exception number. */
#define MBECG_RAN	0x4d42
#define MBECG_LOOPED	0x4d43

#ifndef __ASSEMBLY__
#include <linux/types.h>

/* Two registers, by the ABI; CR2 only of an exception. */
struct mbecg_seen {
	u64 value;
	u64 cr2;
};

extern const char mbecg_canary[];
/* A page of text, all of it 0xcc, that nothing ever runs. Not const: it changes under the compiler. */
extern u8 mbecg_target[];
/* The timer's way out of an instruction that neither runs nor traps. */
extern const char mbecg_looped[];

/* Jump to @at with @value in RAX; what runs there must end in a RET and change no more than RAX and RDX. */
struct mbecg_seen mbecg_enter(u64 at, u64 value);
#endif

#endif
