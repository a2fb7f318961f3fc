/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Pins over shared blocks: two threads, each with a pin for reading on its page, each about to write to the other's page before it unpins.
 *
 * Stands for  proto/pin_fast_path.h (Gate::slow), server/pins.cc, the copy-on-write fault
 * Rules       P4: no block is both shared and pinned, so a copy-on-write fault never waits for a pin
 * Checked     nobody waits for ever; no page is both shared and pinned.
 */
bool pinned[2];
bool shared[2] = true;

active [2] proctype Thread() {
  byte mine = _pid, other = 1 - _pid;
#ifdef WITHOUT_P4
  pinned[mine] = true;
#else
  atomic { !pinned[mine] -> shared[mine] = false; pinned[mine] = true };    /* the gate is slow: unshared first */
  assert(!shared[mine]);
#endif
  if
  :: !shared[other]
  :: atomic { shared[other] && !pinned[other] -> shared[other] = false }    /* the copy takes the block away from under no pin */
  fi;
  pinned[mine] = false
}
