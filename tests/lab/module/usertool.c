// SPDX-License-Identifier: GPL-2.0-only
/* What only a user process can show: run a canary's frame, or call the host, in user mode. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096

static int run(long index)
{
	int device = open("/dev/mbectest", O_RDWR), (*entry)(void);
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, device, index * PAGE);

	if (page == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
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

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "run"))
		return run(strtol(argv[2], NULL, 0));
	if (argc == 5 && !strcmp(argv[1], "hypercall"))
		return call(strtol(argv[2], NULL, 0), strtol(argv[3], NULL, 0),
			    strtol(argv[4], NULL, 0));
	fputs("usertool run CANARY | usertool hypercall NR A0 A1\n", stderr);
	return 2;
}
