// SPDX-License-Identifier: GPL-2.0-only
/* L1: whether the VMCS that is about to be entered has mode-based execute control, told apart by whose guest it is. */
#include <linux/bits.h>
#include <linux/kprobes.h>
#include <linux/kvm_host.h>
#include <linux/module.h>

#define SECONDARY_CONTROLS 0x401e	/* SDM Vol. 3, appendix B.3.1 */
#define MODE_BASED_EXECUTE BIT(22)	/* SDM Vol. 3, "Secondary Processor-Based VM-Execution Controls" */

/* Not atomic: the lab's L1 with VMX has one processor. Without and with the control: guests, then nested guests. */
static ulong entries[4];
module_param_array(entries, ulong, NULL, 0444);
MODULE_PARM_DESC(entries, "entries into guests without and with the control, into nested guests without and with it");

/* vmx_vcpu_run(vcpu, ...) has this processor's VMCS loaded. */
static int look(struct kprobe *probe, struct pt_regs *regs)
{
	struct kvm_vcpu *vcpu = (void *)regs->di;
	bool nested = vcpu->arch.hflags & HF_GUEST_MASK;
	unsigned long controls;

	asm volatile("vmread %1, %0" : "=rm" (controls) : "r" (SECONDARY_CONTROLS + 0UL) : "cc");
	entries[2 * nested + !!(controls & MODE_BASED_EXECUTE)]++;
	return 0;
}

static struct kprobe probe = {
	.symbol_name = "vmx_vcpu_run",
	.pre_handler = look,
};

static int __init vmcs_init(void)
{
	return register_kprobe(&probe);
}
module_init(vmcs_init);

static void __exit vmcs_exit(void)
{
	unregister_kprobe(&probe);
}
module_exit(vmcs_exit);

MODULE_DESCRIPTION("Looks at the VMCS of the lab's guests");
MODULE_LICENSE("GPL");
