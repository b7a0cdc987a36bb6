// SPDX-License-Identifier: GPL-2.0-or-later
/* What the host tells a guest of the guest. */
#include <linux/unaligned.h>
#include <crypto/sha2.h>

#include "mmu.h"
#include "mbecg.h"

static_assert(MBECG_DIGEST_SIZE == SHA256_DIGEST_SIZE);

static u64 status(struct kvm *kvm, const struct mbecg_map *map)
{
	u64 answer = MBECG_ENFORCED | mbecg_mode << MBECG_STATUS_MODE |
		     MBECG_ABI_VERSION << MBECG_STATUS_VERSION;

	answer |= (u64)(u32)READ_ONCE(to_mbecg(kvm)->generation) << MBECG_STATUS_GENERATION;
	answer |= (u64)mbecg_smram_open(kvm) << MBECG_STATUS_SMM_OPEN;
	if (map)
		answer |= map->restricted << MBECG_STATUS_RESTRICTED |
			  map->sealed << MBECG_STATUS_SEALED;
	return answer;
}

/* 32 bits of a SHA-256 digest, those of the first four bytes first. */
u64 mbecg_digest_word(const u8 *digest, u64 nr)
{
	return get_unaligned_be32(digest + nr * sizeof(u32));
}

static u64 map_digest_word(struct mbecg *vm, u64 nr)
{
	u8 empty[SHA256_DIGEST_SIZE];
	struct mbecg_map *map;

	guard(mutex)(&vm->lock);
	map = rcu_dereference_protected(vm->map, lockdep_is_held(&vm->lock));
	if (!map) {
		sha256(empty, 0, empty);
		return mbecg_digest_word(empty, nr);
	}
	if (!map->digested)
		sha256((const u8 *)map->keys, map->nr * sizeof(*map->keys), map->digest);
	map->digested = true;
	return mbecg_digest_word(map->digest, nr);
}

static u64 violations(struct mbecg *vm)
{
	guard(spinlock)(&vm->log_lock);
	return vm->violations;
}

/* @word: below MBECG_WORDS. The generation tells a caller whether two words are of one map. */
u64 mbecg_query(struct kvm *kvm, u64 word)
{
	struct mbecg *vm = to_mbecg(kvm);
	const struct mbecg_map *map;

	if (word >= MBECG_WORD_TEXT)
		return mbecg_texts_word(kvm, word);
	if (word >= MBECG_WORD_DIGEST && word < MBECG_WORD_DENIED)
		return map_digest_word(vm, word - MBECG_WORD_DIGEST);
	guard(rcu)();
	map = mbecg_map_locked(kvm);
	switch (word) {
	case MBECG_WORD_STATUS:
		return status(kvm, map);
	case MBECG_WORD_DENIED:
		return violations(vm) & MBECG_COUNT_MASK;
	case MBECG_WORD_REFUSED:
		return atomic64_read(&vm->refused) & MBECG_COUNT_MASK;
	case MBECG_WORD_CR0:
		return mbecg_ones(kvm, 0, map && map->sealed);
	case MBECG_WORD_CR4:
		return mbecg_ones(kvm, 4, map && map->sealed);
	case MBECG_WORD_LIST_PAGES:
		return MBECG_MAX_LIST_PAGES;
	default:
		return MBECG_MAX_BOUNDARIES;
	}
}
