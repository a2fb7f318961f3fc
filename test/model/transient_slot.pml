/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Threads that try to pin in a loop while a break waits: a failed fast pin shows in its slot for a moment, and a scan may meet it.
 *
 * Stands for  proto/pin_fast_path.h (fast_pin), layout/break_scan.cc (scan)
 * Rules       P1: a closed gate publishes nothing, so that a thread leaves at most one such slot per closing
 * Checked     under weak fairness: the break ends.
 */
bool gate_closed, done;
bool slot[2];

active [2] proctype Thread() {
end:
  do
  ::
#ifndef WITHOUT_P1
     if
     :: gate_closed -> skip                               /* try_pin: EAGAIN */
     :: else ->
#endif
          slot[_pid] = true;                               /* publish, */
          if
          :: gate_closed -> skip                           /* look again: undo */
          :: else -> skip                                  /* pinned; used */
          fi;
          slot[_pid] = false
#ifndef WITHOUT_P1
     fi
#endif
  od
}

active proctype Break() {
  bool busy;
  gate_closed = true;
  do
  :: busy = slot[0];                                       /* one slot after the other */
     busy = busy || slot[1];
     if
     :: busy -> skip                                       /* its bell rings at once; scan everything again */
     :: else -> break
     fi
  od;
  done = true
}

ltl break_ends { <> done }
