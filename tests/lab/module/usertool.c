// SPDX-License-Identifier: GPL-2.0-only
/* What only a user process can show: user mode itself, 32-bit code, pages of a process. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <unistd.h>

#include "usercode.h"

#define PAGE	4096
#define VALUE	8192

/* Selectors of Linux. */
#define USER32_CS	0x23
#define USER_DS		0x2b
#define KERNEL32_CS	0x08
#define KERNEL_DS	0x18

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* The answer of the test module to a verb. */
static const char *verb(const char *format, ...)
{
	static char text[256];
	int device = open("/dev/mbectest", O_RDWR);
	va_list words;
	ssize_t size;

	va_start(words, format);
	size = vsnprintf(text, sizeof(text), format, words);
	va_end(words);
	if (write(device, text, size) != size)
		fail(text);
	size = read(device, text, sizeof(text) - 1);
	if (size < 0)
		fail("read");
	text[size] = '\0';
	close(device);
	return text;
}

static void *low_page(void)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT | MAP_LOCKED | MAP_POPULATE,
			  -1, 0);

	if (page == MAP_FAILED)
		fail("mmap");
	return page;
}

static int run(long index)
{
	int device = open("/dev/mbectest", O_RDWR), (*entry)(void);
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, device, index * PAGE);

	if (page == MAP_FAILED)
		fail("mmap");
	memcpy(&entry, &page, sizeof(entry));
	puts(entry() == 0x1000 + index ? "ran" : "other");
	return 0;
}

static int call(long nr, long a0, long a1)
{
	long result = nr;

	__asm__ volatile("vmcall" : "+a" (result)
			 : "b" (a0), "c" (a1), "d" (0), "S" (0) : "memory");
	printf("%ld\n", result);
	return 0;
}

static char *page_of_code32(long nr, unsigned short selector, unsigned short stack_selector)
{
	char *page = low_page();
	struct usercode code = {
		.offset = (unsigned long)page + (usercode_entry32 - usercode),
		.selector = selector,
		.stack_selector = stack_selector,
		.number = nr,
	};

	memcpy(page, usercode, usercode_end - usercode);
	memcpy(page, &code, sizeof(code));
	return page;
}

/* The hypercall NR in 32-bit mode, of user or kernel. */
static int call32(long nr, int kernel)
{
	char *page = kernel ? page_of_code32(nr, KERNEL32_CS, KERNEL_DS) :
			      page_of_code32(nr, USER32_CS, USER_DS);
	char *start = page + (usercode_entry - usercode);
	long (*entry)(void);

	if (kernel) {
		puts(verb("call_supervisor 1 %lu", (unsigned long)start));
		return 0;
	}
	memcpy(&entry, &start, sizeof(entry));
	printf("%ld\n", entry());
	return 0;
}

static unsigned long physical(const void *page)
{
	int map = open("/proc/self/pagemap", O_RDONLY);
	off_t at = (unsigned long)page / PAGE * sizeof(unsigned long);
	unsigned long entry = 0;

	if (pread(map, &entry, sizeof(entry), at) != sizeof(entry))
		fail("pagemap");
	close(map);
	return (entry & ((1UL << 55) - 1)) * PAGE;
}

static long protect(const void *page, int permissions)
{
	unsigned long pa = physical(page), list;

	verb("wipe");
	verb("entry 0 %lu %lu %d", pa, pa + PAGE, permissions);
	list = strtoul(verb("page 0"), NULL, 0);
	return strtol(verb("hypercall 14 %lu 0", list), NULL, 0);
}

static const char *seen(const char *how, void *page)
{
	const char *text = verb("%s %lu", how, (unsigned long)page);

	return strtol(text, NULL, 0) == VALUE ? "ran" : text;
}

/* Call two pages in ring 0 in the way named, deny the first, and call them again. */
static int attack(const char *how)
{
	static const unsigned char function[] = { 0xb8, VALUE & 255, VALUE >> 8, 0, 0, 0xc3 };
	void *page = low_page(), *neighbour = low_page();

	memcpy(page, function, sizeof(function));
	memcpy(neighbour, function, sizeof(function));
	printf("%s, ", seen(how, page));
	printf("%ld ", protect(page, 3));
	printf("%s, ", seen(how, page));
	printf("neighbour %s, ", seen(how, neighbour));
	printf("%ld ", protect(page, 7));
	printf("%s\n", seen(how, page));
	return 0;
}

/* A byte to a port, again and again. */
static int out(unsigned short port, unsigned char value)
{
	if (ioperm(port, 1, 1))
		fail("ioperm");
	while (!usleep(5000))
		outb(value, port);
	return 1;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "run"))
		return run(strtol(argv[2], NULL, 0));
	if (argc == 5 && !strcmp(argv[1], "hypercall"))
		return call(strtol(argv[2], NULL, 0), strtol(argv[3], NULL, 0),
			    strtol(argv[4], NULL, 0));
	if (argc == 4 && !strcmp(argv[1], "hypercall32"))
		return call32(strtol(argv[2], NULL, 0), !strcmp(argv[3], "kernel"));
	if (argc == 3 && !strcmp(argv[1], "attack"))
		return attack(argv[2]);
	if (argc == 4 && !strcmp(argv[1], "out"))
		return out(strtol(argv[2], NULL, 0), strtol(argv[3], NULL, 0));
	fputs("usertool run CANARY | attack VERB | hypercall NR A0 A1 | hypercall32 NR WHO |"
	      " out PORT VALUE\n",
	      stderr);
	return 2;
}
