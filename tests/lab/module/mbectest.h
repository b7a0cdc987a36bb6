/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef MBECTEST_H
#define MBECTEST_H

#include <linux/types.h>

#define MBECTEST_CANARIES	8
#define MBECTEST_LIST_PAGES	264
#define MBECTEST_ENTRIES	169
#define MBECTEST_MAX_WORDS	8

#define HC_LOCK_CR_UPDATE	13
#define HC_PROTECT_MEMORY	14
#define HC_QUERY_MAGIC		0x59524551494b4548ull	/* "HEKIQERY" */

struct mbectest_entry {
	u64 pa;
	u64 epa;
	u64 permissions;
};

struct mbectest_list {
	u64 next;
	u64 next_pa;
	u64 npages;
	struct mbectest_entry entries[MBECTEST_ENTRIES];
};

/* What ran: its value, or the trap that stopped it and then CR2. */
struct mbectest_outcome {
	u64 value;
	u64 cr2;
};

/* A verb of the device: numbers in, text out. Returns -errno or the length of the text. */
typedef int (*mbectest_verb)(const u64 *words, int count, char *text, size_t size);

/* Result of VMCALL; *trap is the exception number, or -1. */
long mbectest_hypercall(u64 nr, u64 a0, u64 a1, int *trap);

extern const char mbectest_canaries[];
extern const char mbectest_pairs[];
extern const char mbectest_blank[];

unsigned long mbectest_canary(unsigned int index);
phys_addr_t mbectest_canary_pa(unsigned int index);
/* @index must be valid. */
struct mbectest_outcome mbectest_run(unsigned int index);
bool mbectest_ran(struct mbectest_outcome seen, unsigned int index);
int mbectest_verb_canary(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_run(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_flips(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_oops(const u64 *words, int count, char *text, size_t size);

/* Run code that the exception table does not know in a thread of its own: "ran", or "died". */
int mbectest_run_unguarded(void *entry, char *text, size_t size);

/* CR 0 or 4. The trap that a MOV of @value gets, or -1. */
int mbectest_try_cr(unsigned int cr, unsigned long value);
unsigned long mbectest_read_cr(unsigned int cr);
int mbectest_verb_clear_cr(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_write_cr(const u64 *words, int count, char *text, size_t size);
u64 mbectest_read_msr(u32 msr);
int mbectest_try_msr(u32 msr, u64 value);
int mbectest_verb_toggle_wp(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_init(const u64 *words, int count, char *text, size_t size);
int mbectest_apic_init(void);
void mbectest_apic_exit(void);
u64 mbectest_apic_base(void);
u32 mbectest_apic_id(void);
/* To the local APIC @id; @command: the low half of the ICR. */
void mbectest_send_ipi(u32 id, u32 command);

int mbectest_processors_init(void);
void mbectest_processors_exit(void);
int mbectest_verb_start_page(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_start_by_data(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_start_by_text(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_start_by_code(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_start_boot_cpu(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_smi(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_smi_handler(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_smis(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_bridge(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_forget_bsp(const u64 *words, int count, char *text, size_t size);

int mbectest_verb_suspend(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_woken(const u64 *words, int count, char *text, size_t size);

int mbectest_pairs_init(void);
int mbectest_verb_pair(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_pair_run(const u64 *words, int count, char *text, size_t size);

int mbectest_clear_nx(void *address);
void mbectest_write_function(void *at);
int mbectest_payload_init(void);
void mbectest_payload_exit(void);
int mbectest_verb_payload(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_payload_run(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_payload_plant(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_pa(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_wander(const u64 *words, int count, char *text, size_t size);

/* A text address whose entry gets another frame: "ran", or "died". */
int mbectest_repoint(char *text, size_t size);
int mbectest_verb_frame(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_free_space(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_poke(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_overwrite(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_spot(const u64 *words, int count, char *text, size_t size);

int mbectest_verb_store(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_store_storm(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_store_cmpxchg(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_store_movs(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_store_avx(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_peek(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_wrmsr(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_dma(const u64 *words, int count, char *text, size_t size);
/* fw_cfg copies four bytes to a physical address; false: it failed. */
bool mbectest_device_write(u64 pa);

int mbectest_verb_balloon(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_receive(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_read_disk(const u64 *words, int count, char *text, size_t size);

int mbectest_verb_patched_meanwhile(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_written_meanwhile(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_patch_cost(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_walk(const u64 *words, int count, char *text, size_t size);

int mbectest_verb_call_user(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_call_supervisor(const u64 *words, int count, char *text, size_t size);

void mbectest_huge_exit(void);
int mbectest_verb_huge(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_huge_touch(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_huge_run(const u64 *words, int count, char *text, size_t size);

int mbectest_lists_init(void);
void mbectest_lists_exit(void);
struct mbectest_list *mbectest_list_at(unsigned int index);
int mbectest_verb_page(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_set(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_entry(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_churn(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_many(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_wipe(const u64 *words, int count, char *text, size_t size);

int mbectest_verb_late_vmxe(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_race(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_fuzz(const u64 *words, int count, char *text, size_t size);
int mbectest_verb_crowd(const u64 *words, int count, char *text, size_t size);

#endif
