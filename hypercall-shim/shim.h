/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MBECG_SHIM_H
#define MBECG_SHIM_H

#include <linux/types.h>

#include "mbecguard.h"

/* One request at a time; not for mappings, which have no state. */
extern struct mutex mbecg_lock;

/* Handlers of ioctls: they take the kernel's copy of the structure, and fill in its answers. */
int mbecg_info(void *argument);
int mbecg_mappings(void *argument);
int mbecg_query(void *argument);
int mbecg_protect(void *argument);
int mbecg_pin(void *argument);
int mbecg_probe(void *argument);
int mbecg_hold(void *argument);
int mbecg_text(void *argument);

/* The one-way door of the user: nothing that changes the host's mind or the guest's. */
extern bool mbecg_off;
int mbecg_read_command_line(void);

bool mbecg_kvm(void);
bool mbecg_sealed(void);
bool mbecg_stays(void);
u64 mbecg_pinned(u32 cr);

int mbecg_hold_init(void);
void mbecg_hold_exit(void);
bool mbecg_held(void);
u64 mbecg_refused_modules(void);

/* Whether the page at @va can be executed in kernel mode only. */
bool mbecg_executable(u64 va);

void mbecg_probe_init(void);
phys_addr_t mbecg_canary_pa(void);
phys_addr_t mbecg_target_pa(void);

#endif
