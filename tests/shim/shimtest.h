/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SHIMTEST_H
#define SHIMTEST_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mbecguard.h"

#define DEVICE "/dev/mbecguard"
#define PAGE 4096ul

/* The first check that fails ends the program: one line says which. */
#define CHECK(condition) \
	((condition) ? (void)0 : fail(__FILE__, __LINE__, #condition))
/* The call fails, and for this reason. */
#define REFUSED(call, number) \
	CHECK((errno = 0, (call)) == -1 && errno == (number))

_Noreturn void fail(const char *file, int line, const char *what);

int device(void);
/* Zeroed but for its size. */
struct mbecguard_info info(int fd);
/* Status of a child that has run this. */
int in_child(int (*run)(int fd), int fd);

struct maps {
	struct mbecguard_mapping *at;
	size_t count;
};

/* The whole walk, with so many mappings a call. */
struct maps walk(int fd, uint32_t flags, uint32_t step);

void test_sizes(char **arguments);
void test_fields(char **arguments);
void test_pointers(char **arguments);
void test_unknown(char **arguments);
void test_unprivileged(char **arguments);
void test_passed(char **arguments);
void test_info(char **arguments);
void test_nokvm(char **arguments);
void test_off(char **arguments);
void test_mappings(char **arguments);
void test_content(char **arguments);
void test_canary(char **arguments);
void test_user(char **arguments);
void test_mmap(char **arguments);
void test_fetch(char **arguments);
void test_clear(char **arguments);
void test_store(char **arguments);
void test_locked(char **arguments);
void test_hold(char **arguments);
void test_unload(char **arguments);

#endif
