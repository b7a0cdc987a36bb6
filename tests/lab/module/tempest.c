// SPDX-License-Identifier: GPL-2.0-only
/*
 * tempest ROUNDS SECONDS, on L1: a VMM whose guest is two processors that do
 * nothing but hypercalls, while it resets one of them, takes memory away, logs
 * dirty pages, and is killed at the end of each round but the last. Its parent
 * reads the guest's map from debugfs, before and behind its death.
 */
#define _GNU_SOURCE
#include <asm/kvm.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE		4096ul
#define VCPUS		2
#define MEMORY		(4ul << 20)
#define AT_PML4		0x1000ul
#define AT_PDPT		0x2000ul
#define AT_PD		0x3000ul	/* two: 2 GiB */
#define AT_CODE		0x10000ul
#define AT_CALLS	0x20000ul
#define AT_COUNTS	0x30000ul	/* a page each */
#define AT_LISTS	0x100000ul
#define EXTRA		0x40000000ul	/* comes and goes */
#define EXTRA_BYTES	(8ul << 20)
#define CALLS		128
#define LISTS		16
#define BATCH		20	/* as in guest */
#define HOLE		0x3000000000ull
#define QUERY		0x59524551494b4548ull
#define SMEP		(1ull << 20)

struct call {
	uint64_t nr, a0, a1, unused;
};

struct counts {
	uint64_t accepted, refused, result;
};

struct list {
	uint64_t next, next_pa, npages;
	struct { uint64_t pa, epa, permissions; } entries[169];
	uint64_t unused[2];
};

/* Between a VMM and its parent. */
static struct {
	volatile uint64_t fd, slots, resets, sealed;
	volatile uint64_t calls[VCPUS];
	char digest[65];
} *shared;

static uint8_t *memory, *extra;
static int vm, vcpus[VCPUS];
static struct kvm_run *runs[VCPUS];
static struct kvm_sregs at_reset[VCPUS], long_mode[VCPUS];
static volatile bool stop, resetting;

/*
 * RDI: calls; RSI: counts; R8: a random number; R9: memory that comes and goes.
 * The VMM puts the vendor's hypercall for the first of the two.
 */
extern const char guest[], guest_call[], guest_once[], guest_once_call[], guest_end[];
asm(".pushsection .rodata\n"
    "guest:\n"
    "	mov $20, %r10\n"
    "1:	mov %r8, %rax\n	shl $13, %rax\n	xor %rax, %r8\n"
    "	mov %r8, %rax\n	shr $7, %rax\n	xor %rax, %r8\n"
    "	mov %r8, %rax\n	shl $17, %rax\n	xor %rax, %r8\n"
    "	mov %r8, %rdx\n	and $127, %rdx\n	shl $5, %rdx\n"
    "	mov (%rdi,%rdx), %rax\n"
    "	mov 8(%rdi,%rdx), %rbx\n"
    "	mov 16(%rdi,%rdx), %rcx\n"
    "guest_call:	vmcall\n"
    "	test %rax, %rax\n	js 2f\n	incq (%rsi)\n	jmp 3f\n"
    "2:	incq 8(%rsi)\n"
    "3:	dec %r10\n	jnz 1b\n"
    "	mov %r8, %rdx\n	and $0x7ff000, %rdx\n	mov %r8, (%r9,%rdx)\n"
    "	out %al, $16\n	jmp guest\n"
    "guest_once:\n"
    "guest_once_call:	vmcall\n"
    "	mov %rax, 16(%rsi)\n	out %al, $16\n	jmp guest_once\n"
    "guest_end:\n"
    ".popsection");

static uint64_t state = 88172645463325252ull;

static uint64_t any(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

static uint64_t below(uint64_t end)
{
	return any() % end;
}

static void die(const char *what)
{
	perror(what);
	_exit(1);
}

static int checked(int result, const char *what)
{
	if (result < 0)
		die(what);
	return result;
}

/* In the hole, so that no fetch of the guest is denied; its upper quarter gets immutable. */
static void fill_list(struct list *list)
{
	uint64_t i, count = 1 + below(12);

	list->next_pa = below(4) ? 0 : AT_LISTS + below(LISTS) * PAGE;
	for (i = 0; i < count; i++) {
		bool upper = !below(16);
		uint64_t start = upper ? 192 + below(64) : below(192);
		uint64_t pages = 1 + below((upper ? 256 : 192) - start);

		list->entries[i].pa = HOLE + start * PAGE;
		list->entries[i].epa = HOLE + (start + pages) * PAGE;
		list->entries[i].permissions = (1 + below(7)) | (upper ? 8 : 0);
		if (!below(64))
			list->entries[i].permissions |= 16;
	}
	list->npages = below(16) ? count : 0;
}

static struct call any_call(void)
{
	switch (below(8)) {
	case 0:
		return (struct call){ .nr = 14, .a1 = QUERY + below(16) };
	case 1:
		return below(2) ? (struct call){ .nr = 13, .a0 = 4, .a1 = SMEP } :
				  (struct call){ .nr = 13, .a1 = 1 << 16 };
	default:
		return (struct call){ .nr = 14, .a0 = AT_LISTS + below(LISTS) * PAGE };
	}
}

static void set_extra(uint32_t flags, uint64_t bytes)
{
	struct kvm_userspace_memory_region slot = {
		.slot = 1, .flags = flags, .guest_phys_addr = EXTRA,
		.memory_size = bytes, .userspace_addr = (uintptr_t)extra,
	};

	checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "memory slot");
}

static void make_memory(void)
{
	struct kvm_userspace_memory_region slot = { .memory_size = MEMORY };
	uint64_t i, *pd;

	memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	extra = mmap(NULL, EXTRA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || extra == MAP_FAILED)
		die("mmap");
	*(uint64_t *)(memory + AT_PML4) = AT_PDPT | 3;
	for (i = 0; i < 2; i++)
		((uint64_t *)(memory + AT_PDPT))[i] = (AT_PD + i * PAGE) | 3;
	pd = (uint64_t *)(memory + AT_PD);
	for (i = 0; i < 1024; i++)
		pd[i] = i << 21 | 0x83;
	memcpy(memory + AT_CODE, guest, guest_end - guest);
	slot.userspace_addr = (uintptr_t)memory;
	checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "memory");
	set_extra(0, EXTRA_BYTES);
}

static bool is_amd(const struct kvm_cpuid2 *cpuid)
{
	return cpuid->entries[0].ebx == 0x68747541;	/* "Auth" */
}

static void use_vmmcall(void)
{
	memcpy(memory + AT_CODE + (guest_call - guest), "\x0f\x01\xd9", 3);
	memcpy(memory + AT_CODE + (guest_once_call - guest), "\x0f\x01\xd9", 3);
}

static struct kvm_cpuid2 *supported(int kvm)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));
	uint32_t i;

	cpuid->nent = 256;
	checked(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), "cpuid");
	for (i = 0; i < cpuid->nent; i++)	/* no guest in the guest */
		if (cpuid->entries[i].function == 1)
			cpuid->entries[i].ecx &= ~(1u << 5);
		else if (cpuid->entries[i].function == 0x80000001)
			cpuid->entries[i].ecx &= ~(1u << 2);
	return cpuid;
}

static void make_long_mode(struct kvm_sregs *to, const struct kvm_sregs *from)
{
	struct kvm_segment data = {
		.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1,
	};

	*to = *from;
	to->cs = (struct kvm_segment){
		.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1,
	};
	to->ds = to->es = to->ss = to->fs = to->gs = data;
	to->cr0 = 0x80010033;
	to->cr3 = AT_PML4;
	to->cr4 = 0x20 | SMEP;
	to->efer = 0x500;
}

static void make_vcpu(int kvm, int nr, struct kvm_cpuid2 *cpuid)
{
	int bytes = checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "mmap size");

	vcpus[nr] = checked(ioctl(vm, KVM_CREATE_VCPU, nr), "vcpu");
	runs[nr] = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpus[nr], 0);
	checked(ioctl(vcpus[nr], KVM_SET_CPUID2, cpuid), "cpuid of a vcpu");
	checked(ioctl(vcpus[nr], KVM_GET_SREGS, &at_reset[nr]), "sregs");
	make_long_mode(&long_mode[nr], &at_reset[nr]);
}

static void set_state(int nr, uint64_t rip, struct call call)
{
	struct kvm_regs regs = {
		.rip = AT_CODE + rip, .rflags = 2, .rsp = 0x8000,
		.rdi = AT_CALLS, .rsi = AT_COUNTS + nr * PAGE, .r8 = any() | 1, .r9 = EXTRA,
		.rax = call.nr, .rbx = call.a0, .rcx = call.a1,
	};
	struct kvm_mp_state running = { KVM_MP_STATE_RUNNABLE };

	checked(ioctl(vcpus[nr], KVM_SET_SREGS, &long_mode[nr]), "long mode");
	checked(ioctl(vcpus[nr], KVM_SET_REGS, &regs), "registers");
	checked(ioctl(vcpus[nr], KVM_SET_MP_STATE, &running), "mp state");
}

/* Until the guest says that it has done its calls. Memory that is away is MMIO. */
static void run_once(int nr)
{
	do {
		checked(ioctl(vcpus[nr], KVM_RUN, 0), "run");
	} while (runs[nr]->exit_reason == KVM_EXIT_MMIO);
	if (runs[nr]->exit_reason != KVM_EXIT_IO) {
		fprintf(stderr, "vcpu %d: exit %u\n", nr, runs[nr]->exit_reason);
		_exit(1);
	}
}

static long answer_to(int nr, uint64_t a0, uint64_t a1)
{
	set_state(nr, guest_once - guest, (struct call){ .nr = 14, .a0 = a0, .a1 = a1 });
	run_once(nr);
	return ((struct counts *)(memory + AT_COUNTS + nr * PAGE))->result;
}

static void *run_vcpu(void *data)
{
	int nr = (uintptr_t)data;

	set_state(nr, 0, (struct call){});
	while (!stop) {
		run_once(nr);
		shared->calls[nr] += BATCH;
		if (nr || !resetting)
			continue;
		checked(ioctl(vcpus[nr], KVM_SET_SREGS, &at_reset[nr]), "reset");
		set_state(nr, 0, (struct call){});
		shared->resets++;
		usleep(1000 * below(20));
	}
	return NULL;
}

static void *change_requests(void *data)
{
	struct call *calls = (void *)(memory + AT_CALLS);

	while (!stop) {
		fill_list((void *)(memory + AT_LISTS + below(LISTS) * PAGE));
		calls[below(CALLS)] = any_call();
		usleep(below(200));
	}
	return data;
}

static void *change_memory(void *data)
{
	uint8_t dirty[EXTRA_BYTES / PAGE / 8];
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = dirty };

	while (!stop) {
		set_extra(0, 0);
		set_extra(KVM_MEM_LOG_DIRTY_PAGES, EXTRA_BYTES);
		usleep(below(4000));
		checked(ioctl(vm, KVM_GET_DIRTY_LOG, &log), "dirty log");
		set_extra(0, EXTRA_BYTES);
		madvise(extra, EXTRA_BYTES, MADV_DONTNEED);
		usleep(below(4000));
		shared->slots++;
	}
	return data;
}

/* A page of those that the calls seal as well. Afterwards: still so, and nothing else. */
static long seal(uint64_t permissions)
{
	struct list *list = (void *)(memory + AT_LISTS + LISTS * PAGE);

	list->npages = 1;
	list->entries[0].pa = HOLE + 200 * PAGE;
	list->entries[0].epa = HOLE + 201 * PAGE;
	list->entries[0].permissions = permissions;
	return answer_to(0, AT_LISTS + LISTS * PAGE, 0);
}

static void make_vm(void)
{
	int kvm = checked(open("/dev/kvm", O_RDWR), "/dev/kvm"), i;
	struct kvm_cpuid2 *cpuid = supported(kvm);

	vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "vm");
	if (!is_amd(cpuid)) {
		uint64_t identity = 0xfeffc000;

		checked(ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity), "identity map");
		checked(ioctl(vm, KVM_SET_TSS_ADDR, 0xfeffd000), "tss");
	}
	checked(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "irqchip");
	make_memory();
	if (is_amd(cpuid))
		use_vmmcall();
	for (i = 0; i < VCPUS; i++)
		make_vcpu(kvm, i, cpuid);
}

static void child(int seconds, bool last)
{
	void *(*const jobs[])(void *) = { run_vcpu, run_vcpu, change_requests, change_memory };
	pthread_t threads[4];
	uintptr_t i;

	state += getpid();
	make_vm();
	for (i = 0; i < LISTS; i++)
		fill_list((void *)(memory + AT_LISTS + i * PAGE));
	for (i = 0; i < CALLS; i++)
		((struct call *)(memory + AT_CALLS))[i] = any_call();
	resetting = !last;
	if (last && seal(9))
		die("no seal");
	shared->fd = vm;
	for (i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, jobs[i], (void *)i);
	sleep(last ? seconds : 3600);
	stop = true;
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	shared->sealed = !seal(9) && seal(7) == -1 && seal(3) == -1 && !seal(9);
	for (i = 0; i < 8; i++)
		sprintf(shared->digest + 8 * i, "%08lx", answer_to(0, 0, QUERY + 1 + i));
	shared->fd = 0;
	pause();
}

static void read_map(const char *path, uint64_t *reads, int *kept)
{
	char text[1 << 16];
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return;
	*reads += read(fd, text, sizeof(text)) > 0;
	usleep(200);
	if (*kept >= 0)
		close(*kept);
	*kept = fd;
}

static bool same_digest(const char *path)
{
	char command[200], line[80] = "";
	FILE *digest;

	snprintf(command, sizeof(command), "sh /lab/map-digest %s", path);
	digest = popen(command, "r");
	if (!digest || !fgets(line, sizeof(line), digest))
		die("map-digest");
	pclose(digest);
	return !strncmp(line, shared->digest, 64);
}

/* Start a VMM, look at its map for so long, or until it has come to its end, and kill it. */
static bool play(int seconds, bool last, uint64_t *reads)
{
	bool good = !last;
	int kept = -1, status;
	char path[80], end[16];
	pid_t pid = fork();
	time_t until;

	if (!pid)
		child(seconds, last);
	while (!shared->fd && !waitpid(pid, &status, WNOHANG))
		usleep(1000);
	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%lu/mbecguard", pid,
		 (unsigned long)shared->fd);
	for (until = time(NULL) + seconds; last ? shared->fd : time(NULL) < until;) {
		if (waitpid(pid, &status, WNOHANG))
			die("the VMM has died");
		read_map(path, reads, &kept);
	}
	if (last)
		good = same_digest(path);
	shared->fd = 0;
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	if (kept < 0 || read(kept, end, sizeof(end)) < 0 || close(kept))
		die("the map of a VM that has ended");
	return good;
}

int main(int count, char **words)
{
	int rounds = count == 3 ? atoi(words[1]) : 0, seconds = count == 3 ? atoi(words[2]) : 0;
	uint64_t reads = 0;
	bool same = false;

	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (rounds < 1 || seconds < 1 || shared == MAP_FAILED)
		return 2;
	while (rounds--)
		same = play(seconds, !rounds, &reads);
	printf("calls %lu %lu resets %lu slots %lu reads %lu sealed %lu digest %s\n",
	       shared->calls[0], shared->calls[1], shared->resets, shared->slots, reads,
	       shared->sealed, same ? "equal" : "another");
	return 0;
}
