/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Two threads, each with a pin in one file, each in need of a fault in the other file before it can unpin; in each file a break sleeps.
 *
 * Stands for  layout/client_layout.cc (with_fault), server/faults.cc
 * Rules       A5: a fault never waits for a sleeping break, only for a held lock
 * Checked     nobody waits for ever (no invalid end state).
 */
bool pin[2] = true;
bool breaking[2];

active [2] proctype Thread() {
  byte mine = _pid, other = 1 - _pid;
#ifdef WITHOUT_A5
  !breaking[other];                                        /* not a holder there, so it queues like everybody */
#endif
  skip;                                                    /* the fault */
  pin[mine] = false
}

active [2] proctype Break() {
  byte file = _pid - 2;
  breaking[file] = true;
  !pin[file];
  breaking[file] = false
}
