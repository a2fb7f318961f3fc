/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How a sleeping break learns that a pin has ended, while slots are used again and again.
 *
 * Stands for  proto/pin_fast_path.h (fast_unpin), layout/break_scan.cc (scan), layout/break_sleep.cc (sleep, wake),
 *             layout/client_layout.cc (doorbell), layout/core.cc (wait, wake_all, client_gone), layout/slot_scan.cc (mark_awaited)
 * Rules       U1, U2, U3, D1's wake-up, the undo of P2
 * Modelled    a client thread with one slot, which pins inside or outside the broken range, or finds the gate closed after it
 *             published and undoes; two breaks of that range, whose bells one event loop drains; the client's death at any moment.
 *             A pin outside the range may last until the breaks have ended: whoever sleeps on it sleeps for ever.
 * Checked     when nothing can happen any more, both breaks have ended: nobody sleeps for ever.
 *
 * CLIENT_NEVER_RINGS  a client that does not ring: the periodic rescan (U3) must do. (Left out elsewhere: it would hide lost bells.)
 */
#ifndef PINS
#define PINS 2
#endif
#ifndef BREAKS
#define BREAKS 2
#endif

mtype = { FREE, ACTIVE, AWAITED };
mtype:place = { NOWHERE, INSIDE, OUTSIDE };

/* ---- the slot: {state, sequence} change together; the fields are written before ---- */
mtype state = FREE;
byte sequence;
mtype:place place = NOWHERE;

bool alive = true;
bool gone;                        /* the daemon knows of the death, and scans skip the client */
bool bell;
byte breaks_done;
bool gate_closed;

/* ---- breaks ---- */
bool registered[BREAKS];          /* with the client: its bell and its death wake this break */
bool woken[BREAKS];

#define ended (breaks_done == BREAKS)

inline wake(b) {
  if
  :: registered[b] -> woken[b] = true
  :: else
  fi
}
inline wake_all() {
  atomic { wake(0); wake(BREAKS - 1) }
}

inline release() {                /* U1, also the undo of a pin that found the gate closed */
#ifdef WITHOUT_U1_EXCHANGE
  old = state;                    /* a load and a plain store: a mark in between is overwritten */
  state = FREE;
#else
  atomic { old = state; state = FREE };
#endif
  if
  :: old == AWAITED ->
#ifndef CLIENT_NEVER_RINGS
#ifdef WITHOUT_U1_CANCELLATION_OFF
       if
       :: bell = true
       :: goto cancelled          /* the thread ends between the exchange and the ring */
       fi
#else
       bell = true
#endif
#else
       skip
#endif
  :: else
  fi;
  old = FREE
}

active proctype Client() provided (alive) {
  mtype old = FREE;
  byte n;
  do
  :: n == PINS -> break
  :: n < PINS ->
       n++;
       if
       :: place = INSIDE
       :: place = OUTSIDE
       fi;
       d_step { state = ACTIVE; sequence++ };              /* P2: published */
       if
       :: place == INSIDE && gate_closed ->                /* the second look fails */
#ifdef WITHOUT_P2_UNDO_BY_UNPIN
            state = FREE
#else
            release()
#endif
       :: place == INSIDE && !gate_closed -> release()
       :: place == INSIDE -> release()                     /* by message, or before the gate closed */
       :: place == OUTSIDE -> release()
       :: place == OUTSIDE -> ended; release()             /* lasts longer than the breaks */
       fi
  od;
cancelled:
  skip
}

active proctype Death() {
  if
  :: skip
  :: atomic { alive -> alive = false };                    /* at any moment, between any two instructions */
     gone = true;
#ifndef WITHOUT_U3_DEATH
     wake_all()
#endif
  fi
}

/* The server's event loop: the doorbell. */
active proctype EventLoop() {
end:
  do
  :: bell ->
#ifdef WITHOUT_U2_DRAIN_FIRST
       wake_all();
       bell = false                                        /* eats the bell of a pin that was marked since */
#else
       bell = false;
       wake_all()
#endif
  od
}

/* One look at the slot as scans take it: state, fields, state again; then what it saw. */
inline look(seen, seen_sequence, seen_place) {
  seen = state;
  if
  :: seen != FREE && !gone ->
       d_step { seen_sequence = sequence; seen_place = place };
       if
       :: atomic { state == FREE || sequence != seen_sequence -> seen = FREE; goto reread }
       :: else
       fi
  :: else -> seen = FREE
  fi
}

active [BREAKS] proctype Break() {
  mtype seen;
  mtype:place at;
  byte number;
  byte me = _pid - 3;             /* after Client, Death, EventLoop */
  gate_closed = true;
again:
  woken[me] = false;
#ifndef WITHOUT_U2_REGISTER_FIRST
  registered[me] = true;
#endif
reread:
  look(seen, number, at);
  if
  :: seen == FREE || at != INSIDE -> goto done
  :: else
  fi;
  /* U2: mark what was seen, or look at the slot again. */
#ifdef WITHOUT_U2_COMPARE_AND_SWAP
  state = AWAITED;
#else
#ifdef WITHOUT_U2_SEQUENCE
  if
  :: atomic { state != FREE -> state = AWAITED }
  :: else -> goto reread
  fi;
#else
  if
  :: atomic { state != FREE && sequence == number -> state = AWAITED }
  :: else -> goto reread
  fi;
#endif
#endif
#ifdef WITHOUT_U2_REGISTER_FIRST
  registered[me] = true;
#endif
#ifdef WITHOUT_U3_EARLY_WAKE
  woken[me] = false;              /* a wake between the scan and the sleep is dropped */
#endif
  if
  :: woken[me]
#if defined(CLIENT_NEVER_RINGS) && !defined(WITHOUT_U3_RESCAN)
  :: state == FREE || sequence != number || gone          /* what a rescan would find */
#endif
  fi;
  goto again;
done:
  atomic { registered[me] = false; breaks_done++ }
}

active proctype Watch() {
  timeout;                        /* nobody can take a step */
  assert(ended)
}
