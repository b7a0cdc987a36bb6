# SPDX-License-Identifier: GPL-2.0-or-later
"""Text objects: how kernel text is handed over, whatever goes on meanwhile, and lists that no host takes."""

from __future__ import annotations

import re

from .scenario import EFAULT, EINVAL, EOPNOTSUPP, EPERM, Scenario, Setting, same
from .stores import JUDGING, PAGE, REFUSED, judged

SCENARIOS: tuple[Scenario, ...] = (
    judged(
        "stores-scattered",
        "text in page frames that lie apart is one text, and a site may lie over their border",
        PAGE
        + """
        next=$(t payload 1)
        there() { t store $((next + $1)) "$2" "${3:-1}"; }
        # A jump label whose first two bytes end the first page: `0f 1f | 44 00 00`.
        store 0xffe 0x1f0f 2 >/dev/null
        there 0 0x0044 2 >/dev/null
        there 2 0 >/dev/null
        text_head "$page" $((page + 4096)) $((1 << 32)) 1
        text_site 0xffe 0x1200 1 5 0
        text_run "$next" $((next + 4096)) 0x1000
        t set 0 1 "$(t page 1)" && t set 1 1 "$(t page 2)"
        fact overlap "$(text_run "$page" $((page + 4096)) 0x1000; send_text)"
        fact descends "$(text_run "$next" $((next + 4096)) 0; send_text)"
        fact hole "$(text_run "$next" $((next + 4096)) 0x2000; send_text)"
        fact none "$(($(word 15) >> 16 & 0xffff)) $(store 0x80 0x90)"
        text_run "$next" $((next + 4096)) 0x1000
        fact add "$(send_text)"
        fact again "$(send_text)"
        fact head "$(store 0xffe 0xcc)"
        fact tail "$(there 0 0x00 1) $(there 0 0x44) $(there 1 0)"
        fact beside "$(there 3 0x90) $(store 0xffd 0x90)"
        fact jump "$(store 0xffe 0xcc) $(store 0xfff 0xfd) $(there 0 0x0001 2) $(store 0xffe 0xe9)"
        fact bytes "$(t peek $((next)) | cut -c1-6)"
        fact patches "$(word 16) $(word 17)"
        fact pages "$(($(word 15) >> 16 & 0xffff)) $(($(word 15) >> 32))"
        fact alive "$(t payload_run 0) $(t payload_run 2) $(t run 0)"
        """,
        {
            "overlap": EPERM,
            **same("descends hole", EINVAL),
            "none": "0 stored",
            "add": "0",
            "again": EPERM,
            "head": "stored",
            "tail": f"{REFUSED} stored stored",
            "beside": f"{REFUSED} {REFUSED}",
            "jump": "stored stored stored stored",
            "bytes": "010000",
            "patches": "7 3",
            "pages": "1 2",
            "alive": "ran ran ran",
        },
    ),
    judged(
        "stores-meanwhile",
        "pages are handed over while CPUs patch them, or a device writes there: no store is lost, none comes late",
        """
        panic_on_oops 0
        dmesg -c >/dev/null
        fact without "$(t written_meanwhile 5 0)"
        fact patched "$(t patched_meanwhile 2 200)"
        fact by-three "$(t patched_meanwhile 3 100)"
        fact stores "$(word 16) $(word 17)"
        fact written "$(t written_meanwhile 40 1)"
        fact objects "$(($(word 15) >> 16 & 0xffff))"
        fact complaints "$(dmesg | grep -c -E 'BUG:|WARNING:|Oops' || true)"
        fact alive "$(t run 0) $(cycle)"
        """,
        {
            "without": re.compile("[0-9] of 5 [1-5] 0"),
            "patched": re.compile("[1-9][0-9]{2,} 0 0"),
            "by-three": re.compile("[1-9][0-9]{2,} 0 0"),
            "stores": re.compile("[1-9][0-9]+ 0"),
            "written": re.compile("[1-9][0-9]* of 40 0 0"),
            "objects": "340",
            "complaints": "0",
            "alive": "ran 1",
        },
        cpus=2,
    ),
    judged(
        "stores-reboots",
        "ten boots in a row hand their text over, each time the next kernel has all of its own again, and patches it",
        PAGE
        + """
        mount -t tracefs none /sys/kernel/tracing
        flip() {
            for on in 1 0; do echo $on >/sys/kernel/tracing/events/sched/sched_switch/enable; done
            echo done
        }
        pa=$(t pa "0x$(sed -n 's/ [tT] _text$//p' /proc/kallsyms)")
        end=$(t pa "0x$(sed -n 's/ [tT] _etext$//p' /proc/kallsyms)")
        fact free-$stage "$(($(word 15) >> 16 & 0xffff)) $(word 16) $(word 17) $(flip) $(store 0x80 0x90)"
        [ "$stage" -lt 11 ] || exit 0
        text_head "$pa" $(((end + 4095) & ~4095)) 1
        fact text-$stage "$(send_text)"
        text_head "$page" $((page + 4096)) 0 1
        text_site 0 0x200 1 5 0
        fact page-$stage "$(send_text) $(store 0x80 0x91)"
        fact flipped-$stage "$(flip) $([ "$(word 17)" -gt 10 ] && echo counted)"
        reset
        """,
        {
            **same(" ".join(f"free-{stage}" for stage in range(1, 12)), "0 0 0 done stored"),
            **same(" ".join(f"text-{stage}" for stage in range(1, 11)), "0"),
            **same(" ".join(f"page-{stage}" for stage in range(1, 11)), f"0 {REFUSED}"),
            **same(" ".join(f"flipped-{stage}" for stage in range(1, 11)), "done counted"),
        },
    ),
    judged(
        "stores-malformed",
        "lists of text that break the contract get its errors, and nothing is taken",
        """
        page=$(t payload 0) end=$(($(t payload 0) + 4096))
        fresh() {
            text_head "$page" "$end" 0 1
            text_site 0 0x200 1 5 0
        }
        # NAME PAGE WORD VALUE
        wrong() {
            fresh
            t set "$2" "$3" "$4"
            fact "$1" "$(send_text)"
        }
        wrong unaligned 0 4 $((page + 8))
        wrong empty 0 5 "$page"
        wrong huge-range 0 5 $((page + (32769 << 12)))
        wrong beyond 0 4 0xfffffffffffff000
        wrong flags 0 8 4
        wrong data-sites 0 8 2
        wrong fewer-runs 0 8 $((1 << 32))
        wrong too-many-runs 0 8 $((32768 << 32))
        wrong part 0 3 $((9 | 1 << 32))
        wrong two-heads 0 3 $((1 | 2 << 32))
        wrong entries 0 2 1
        wrong too-many 0 6 $((2 << 20))
        wrong fewer 0 6 2
        wrong more 0 6 0
        wrong nr 1 3 $((2 | 1000 << 32))
        wrong kind 1 5 $(((9 << 4 | 5) << 16))
        wrong length 1 5 $(((1 << 4 | 4) << 16))
        wrong site-flags 1 5 $(((1 << 4 | 5) << 16 | 2 << 24))
        wrong outside 1 4 4093
        wrong far 1 5 $(((1 << 4 | 2) << 16))
        wrong link 0 1 8
        wrong hole 0 1 $HOLE
        wrong loop 0 1 "$(t page 0)"
        fact denied "$(protect "$page" $RW) $(fresh; send_text) $(protect "$page" $RWX)"
        fact nothing "$(($(word 15) >> 16)) $(t store $((page + 0x80)) 0x90 1)"
        data=$(t payload 2)
        fact data-before "$(protect "$data" $RW) $(t store $((data + 8)) 0x90 1)"
        text_head "$data" $((data + 4096)) 0
        fact data-as-text "$(send_text)"
        text_head "$data" $((data + 4096)) 2
        fact data "$(send_text) $(t store $((data + 8)) 0x91 1) $(t store $(($(t payload 3) + 8)) 0x90 1)"
        fact good "$(fresh; send_text)"
        """,
        {
            **same(
                "unaligned empty beyond flags data-sites fewer-runs part two-heads entries fewer more nr kind length",
                EINVAL,
            ),
            **same("site-flags outside far link loop", EINVAL),
            **same("huge-range too-many too-many-runs", "-7"),
            "hole": EFAULT,
            "denied": f"0 {EINVAL} 0",
            "nothing": "0 stored",
            "data-before": "0 stored",
            "data-as-text": EINVAL,
            "data": f"0 {REFUSED} stored",
            "good": "0",
        },
    ),
    judged(
        "stores-race",
        "a kernel's whole text is handed over while another CPU patches it, and while dirty pages are logged",
        """
        mount -t tracefs none /sys/kernel/tracing
        pa=$(t pa "0x$(sed -n 's/ [tT] _text$//p' /proc/kallsyms)")
        end=$(t pa "0x$(sed -n 's/ [tT] _etext$//p' /proc/kallsyms)")
        (while [ ! -e /run/stop ]; do
            echo 1 >/sys/kernel/tracing/events/sched/enable
            echo 0 >/sys/kernel/tracing/events/sched/enable
            echo x >>/run/rounds
        done) &
        sleep 2
        rounds=$(grep -c x /run/rounds)
        dmesg -c >/dev/null
        chunks=$(((end >> 21) - (pa >> 21)))
        look() { for i in $(seq 0 $chunks); do t peek $((pa + (i << 21))); done >/dev/null; }
        look
        before=$(counted pages_2m)
        text_head "$pa" $(((end + 4095) & ~4095)) 0
        fact add "$(send_text)"
        sleep 3
        fact patched "$([ "$(word 17)" -gt 1000 ] && echo yes)"
        look
        fact large "$([ $(($(counted pages_2m) - before + chunks)) -gt 2 ] && echo yes)"
        monitor 'migrate_set_parameter max-bandwidth 20k'
        monitor 'migrate -d "exec:cat >/dev/null"'
        sleep 4
        before=$(word 17)
        sleep 2
        fact logged "$([ "$(word 17)" -gt "$before" ] && echo yes)"
        monitor migrate_cancel
        sleep 2
        : >/run/stop
        wait
        fact rounds "$([ "$(grep -c x /run/rounds)" -gt "$rounds" ] && echo more)"
        fact foreign "$(word 18)"
        fact chunks "$(host run "sed -n 's/^text .* chunks //p' /sys/kernel/debug/kvm/*/mbecguard")"
        fact complaints "$(dmesg | grep -c -E 'BUG:|WARNING:|Oops' || true)"
        fact alive "$(t run 0) $(cycle)"
        """,
        {
            "add": "0",
            **same("patched large logged", "yes"),
            "rounds": "more",
            "foreign": "0",
            "chunks": re.compile("[1-9] *"),
            "complaints": "0",
            "alive": "ran 1",
        },
        cpus=2,
        mode="log",
    ),
    Scenario(
        "text-not-taken",
        "a host without text objects (6.12; 7.2 where they are switched off) says so, and takes none",
        PAGE
        + """
        text_head "$page" $((page + 4096)) 0
        fact offered "$(($(word 15) & 3))"
        fact refused "$(send_text)"
        fact page "$(store 0x80 0x90) $(t payload_run 0)"
        """,
        {"offered": "0", "refused": EOPNOTSUPP, "page": "stored ran"},
        JUDGING,
        slow=True,
        setting=Setting(kvm="mbecguard_text=off"),
    ),
)
