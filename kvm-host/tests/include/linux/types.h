/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TESTS_LINUX_TYPES_H
#define TESTS_LINUX_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
struct rcu_head { void *unused[2]; };

#endif
