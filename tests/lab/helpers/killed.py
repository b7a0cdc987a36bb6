# SPDX-License-Identifier: GPL-2.0-or-later
"""Lock this guest again and again, and kill the agent at each step in turn: the next attempt has to cope.

Prints one line for each step: the step, what ended the agent, the state that `status` sees afterwards.
"""

import os
import signal

from mbecguard.records.record import Step
from mbecguard.session import Places, Session
from mbecguard.settings.load import load as load_settings
from mbecguard.values.errors import UserError


def attempt(step: Step) -> None:
    """Lock, in this process, and die at the step."""

    def reach(reached: Step) -> None:
        if reached is step:
            os.kill(os.getpid(), signal.SIGKILL)

    chosen = load_settings(overrides=["freeze.modules=off"])  # it cannot be taken back
    transaction = Session(chosen, Places.live()).transaction(lambda _event, _facts: None)
    transaction.reach = reach
    transaction.run()


def ending(step: Step) -> str:
    """What became of an agent that is killed at the step."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            attempt(step)
            code = 0
        except UserError as error:
            print(error.message, flush=True)
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return signal.Signals(-status).name if status < 0 else f"exit {status}"


for each in Step:
    end = ending(each)
    state = Session(load_settings(), Places.live()).status().state
    print(each.value, end, state.value, flush=True)
