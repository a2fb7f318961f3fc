/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The break, from closing to counting out: two clients, two pages, two breaks that overlap.
 *
 * Stands for  layout/break.cc, break_scan.cc, break_sleep.cc, break_recall.cc, slow_pin.cc (make_visible), core.cc (client_gone)
 * Rules       G1, G3, P3, B2, B3, B4, B5, A5, D1; races R2, R4, R9, R10
 * Modelled    break 0 changes pages 0 and 1, break 1 page 1. Each thread pins a page (without a message if the gate is open, else by
 *             message under the shared hold), loads from it and from the other page, which may need a fault, and unpins.
 *             INTERRUPTS: a break may be interrupted in its sleep. LATE_ANSWERS: an acknowledgement may take so long that the lock is
 *             dropped. DEATH: client 1 may die; first its pins end, later its memory is gone; until then its loads and devices go on.
 * Checked     no block is freed while it is pinned or anywhere translated; no load meets a freed block; when nothing can happen any
 *             more, every break and every thread of a living client has ended.
 *
 * Simplified  stores reach memory at once (pin_and_gate.pml); the bell is "woken" (wake_up.pml); the lock is not fair (range_lock.pml);
 *             everybody's pins are admitted (admission.pml).
 */
#ifndef THREADS
#define THREADS 2
#endif
#define CLIENT(t)    ((t) % 2)
#define SLOT(t, p)   ((t) * 2 + (p))
#define MAPS(c, p)   ((c) * 2 + (p))

mtype = { FREE, ACTIVE, AWAITED };

/* ---- the daemon ---- */
byte closed[2];                   /* per page: how many breaks hold it closed */
byte lock[2];                     /* held exclusively by break lock-1 */
byte layout[2];                   /* version: each change frees the page's block and puts another there */
bool woken[2], interrupted[2];
byte breaks_ended;

/* ---- the clients ---- */
mtype slot[THREADS * 2] = FREE;
bool pinned[THREADS * 2];         /* what the thread believes */
bool same_word[THREADS];          /* the gate's word is still the one that the thread read */
bool translated[4];
byte version[4];                  /* of the layout that the translation is of; an older one is of a freed block */
bool gone[2];                     /* the daemon knows of the death: its pins have ended */
bool memory[2] = true;
byte threads_ended;

inline grant(client, page) { translated[MAPS(client, page)] = true; version[MAPS(client, page)] = layout[page] }

inline load(where) {
  do
  :: atomic { translated[MAPS(c, where)] -> assert(version[MAPS(c, where)] == layout[where]); break }
  :: atomic { !translated[MAPS(c, where)] && lock[where] == 0 -> grant(c, where) }   /* A5: also while a break sleeps */
  od
}

inline unpin(where) {
  pinned[SLOT(t, where)] = false;
  atomic { old = slot[SLOT(t, where)]; slot[SLOT(t, where)] = FREE };
  if
  :: atomic { old == AWAITED -> woken[0] = true; woken[1] = true }
  :: else
  fi;
  old = FREE
}

proctype Thread(byte t; byte c) provided (memory[c]) {
  byte p;
  mtype old = FREE;
#ifdef ANY_PAGE
  if
  :: p = 0
  :: p = 1
  fi;
#else
  p = t % 2;
#endif
  if
  :: load(p)                                               /* mapped before, */
  :: skip                                                  /* or not */
  fi;
  if
  :: atomic { closed[p] == 0 -> same_word[t] = true };        /* P1 */
     slot[SLOT(t, p)] = ACTIVE;                            /* P2 */
     if
     :: atomic { same_word[t] -> same_word[t] = false; pinned[SLOT(t, p)] = true }
     :: else -> unpin(p)
     fi
  :: closed[p] > 0
  fi;
  if
  :: pinned[SLOT(t, p)]
  :: else ->
     atomic { lock[p] == 0 ->                  /* under the shared hold */
#ifndef WITHOUT_P3_BEFORE_THE_REPLY
       slot[SLOT(t, p)] = ACTIVE;
       pinned[SLOT(t, p)] = true
#endif
     };
#ifdef WITHOUT_P3_BEFORE_THE_REPLY
     atomic { slot[SLOT(t, p)] = ACTIVE; pinned[SLOT(t, p)] = true }
#endif
  fi;
  load(1 - p);                                             /* R4: needed before it can unpin */
  load(p);
  unpin(p);
  threads_ended++
}

/* D1: the pins of the dead have ended. */
#ifdef WITHOUT_D1_PINS_END
#define PINS_COUNT(c)   true
#else
#define PINS_COUNT(c)   (!gone[c])
#endif
#define COVERS(p)   ((mask >> (p)) & 1)

inline take_lock() {
  atomic {
    (!COVERS(0) || lock[0] == 0) && (!COVERS(1) || lock[1] == 0) ->
    if :: COVERS(0) -> lock[0] = me + 1 :: else fi;
    if :: COVERS(1) -> lock[1] = me + 1 :: else fi
  }
}
inline drop_lock() {
  atomic {
    if :: COVERS(0) -> lock[0] = 0 :: else fi;
    if :: COVERS(1) -> lock[1] = 0 :: else fi
  }
}
/* The word belongs to the whole mapping: a change elsewhere in the file only makes the thread try again. */
inline new_word() {
  i = 0;
  do
  :: i < THREADS -> same_word[i] = false; i++
  :: else -> break
  od;
  i = 0
}
inline close_gates() {
  atomic {
    if
    :: !counted_in ->
         counted_in = true;
         if :: COVERS(0) -> closed[0]++ :: else fi;
         if :: COVERS(1) -> closed[1]++ :: else fi;
         new_word()
    :: else
    fi
  }
}
#ifdef WITHOUT_G1_COUNT
#define OUT(p)   closed[p] = 0                             /* whoever ends stores "open" */
#else
#define OUT(p)   closed[p]--
#endif
inline count_out() {
  atomic {
    if :: COVERS(0) -> OUT(0) :: else fi;
    if :: COVERS(1) -> OUT(1) :: else fi;
    new_word()
  }
}

/* The client's service thread answers; a dead client's translations end with its memory (D1). */
#ifdef WITHOUT_D1_MEMORY
#define GIVES_UP(c)   true
#else
#define GIVES_UP(c)   (!gone[c] || !memory[c])
#endif
inline take_translations(c) {
  if :: COVERS(0) && !gone[c] -> translated[MAPS(c, 0)] = false; version[MAPS(c, 0)] = 0 :: else fi;
  if :: COVERS(1) && !gone[c] -> translated[MAPS(c, 1)] = false; version[MAPS(c, 1)] = 0 :: else fi
}

proctype Break(byte me; byte mask) {
  byte i, p;
  bool busy, counted_in, was_late;
again:
  take_lock();
#ifndef WITHOUT_G3_ORDER
  close_gates();
#endif
  atomic { woken[me] = false; busy = false; i = (COVERS(0) -> 0 : 1) };
  do
  :: i < THREADS * 2 ->
       atomic {
         if
         :: COVERS(i & 1) && slot[i] != FREE && PINS_COUNT(CLIENT(i / 2)) -> slot[i] = AWAITED; busy = true
         :: else
         fi;
         i++;
         if
         :: i < THREADS * 2 && !COVERS(i & 1) -> i++
         :: else
         fi
       }
  :: else -> break
  od;
#ifdef WITHOUT_G3_ORDER
  close_gates();
#endif
  i = 0;
  if
  :: busy ->
#ifndef WITHOUT_B2_DROPPED_LOCK
       drop_lock();
#endif
       if
       :: woken[me]
       :: interrupted[me] ->                               /* B5: nothing is changed */
            count_out();
#ifdef WITHOUT_B2_DROPPED_LOCK
            drop_lock();
#endif
            goto ended
       fi;
#ifdef WITHOUT_B2_DROPPED_LOCK
       drop_lock();
#endif
#ifdef WITHOUT_B2_RESCAN
       take_lock()                                         /* woken, so it must be idle */
#else
       goto again
#endif
  :: else
  fi;
#ifdef WITHOUT_B3_KEPT_LOCK
  drop_lock();
#endif
  /* B3: recall from every client, await the answers. */
  do
  :: i == 2 -> break
#ifdef WITHOUT_B3_ANSWERS
  :: i < 2 -> i++
#else
  :: atomic { i < 2 && GIVES_UP(i) -> take_translations(i); i++ }
#ifdef LATE_ANSWERS
  :: i < 2 && !was_late ->                                 /* B4: not within the bound: the lock is dropped */
       was_late = true;
       drop_lock();
       if
       :: atomic { GIVES_UP(i) -> take_translations(i) }
       :: interrupted[me] -> count_out(); goto ended
       fi;
#ifdef WITHOUT_B4_START_OVER
       take_lock();
       i++
#else
       goto again
#endif
#endif
#endif
  od;
#ifdef WITHOUT_B3_KEPT_LOCK
  take_lock();
#endif
  /* B5: the change, with the lock held. */
  atomic {
    i = 0; p = 0;
    do
    :: p < 2 ->
         if
         :: COVERS(p) ->
              assert(!(memory[0] && translated[MAPS(0, p)]) && !(memory[1] && translated[MAPS(1, p)]));
              do
              :: i < THREADS -> assert(!(pinned[SLOT(i, p)] && memory[CLIENT(i)])); i++
              :: else -> break
              od;
              i = 0;
              layout[p]++
         :: else
         fi;
         p++
    :: else -> break
    od;
    i = 0; p = 0
  };
  count_out();
  drop_lock();
ended:
  breaks_ended++
}

#ifdef DEATH
active proctype Death() {
  if
  :: skip
  :: gone[1] = true;
     atomic { woken[0] = true; woken[1] = true };
     atomic { memory[1] = false; translated[MAPS(1, 0)] = false; translated[MAPS(1, 1)] = false }
  fi
}

#endif

#ifdef INTERRUPTS
active proctype Interrupt() {
  if
  :: skip
  :: interrupted[0] = true
  :: interrupted[1] = true
  fi
}
#endif

#define THREADS_OF_CLIENT_1   (THREADS / 2)

init {
  byte t;
  atomic {
    do
    :: t < THREADS -> run Thread(t, CLIENT(t)); t++
    :: else -> break
    od;
    t = 0;
    run Break(0, 3);
    run Break(1, 2)
  };
  timeout;
  assert(breaks_ended == 2);
  assert(threads_ended >= THREADS - (memory[1] -> 0 : THREADS_OF_CLIENT_1))
}
