/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Pin without a message against a break that closes the gate, on x86: every store of a process waits in its store buffer and reaches
 * memory some time later, in order; an exchange or a fence empties the buffer first.
 *
 * Stands for  proto/pin_fast_path.h (fast_pin, fast_unpin), layout/gate.cc (rewrite), the scan of layout/slot_scan.cc
 * Rules       G2, G3, G4, G5, P2 (and P1's look at the gate)
 * Modelled    one page, one client thread with one slot, a daemon that breaks the page a few times. The gate's word is the real one: a
 *             sequence, a changing bit, a closed bit. The thread either goes through its mapping (faulting under the shared hold when
 *             it has no translation, also while a break sleeps: A5), or uses a block number that it kept from an earlier grant,
 *             together with that grant's generation (G5).
 * Checked     no block is freed while a pin on it stands; no load through a pin meets a freed block; nobody hangs.
 *
 * Simplified  the break's sleep ends when the slot is free (wake_up.pml is about that); a recall is acknowledged at once
 *             (grant_recall.pml). Loads of one process are in order, as on x86.
 */
#ifndef BREAKS
#define BREAKS 2
#endif
#ifndef PINS
#define PINS 3
#endif

#define CLOSED    1
#define CHANGING  2
#define UNIT      4               /* of the sequence */

/* ---- shared memory, and what still waits in the store buffers ---- */
byte word;                        /* the gate's word */
byte generation = 1;              /* the gate's generation */
bool slot;                        /* the slot is active */
mtype = { WORD, GENERATION };
chan daemon_stores = [4] of { mtype, byte };
chan client_stores = [2] of { bool };

/* ---- the truth ---- */
byte block;                       /* the block that the page has now */
bool freed[BREAKS + 1];
bool range_lock;                  /* held exclusively by the break */
bool translated = true;           /* the client's translation, of block ... */
byte translated_to;
byte kept_block, kept_generation = 1;  /* a block number kept outside the mapping (G5) */
bool pinned;                      /* the client believes that its pin stands */

active proctype DaemonStoreBuffer() {
  mtype what; byte value;
end:
  do
  :: atomic { daemon_stores?what,value ->
       if
       :: what == WORD -> word = value
       :: what == GENERATION -> generation = value
       fi; value = 0 }
  od
}

active proctype ClientStoreBuffer() {
  bool value;
end:
  do
  :: atomic { client_stores?value -> slot = value; value = 0 }
  od
}

/* A fault: looked up and granted under one shared hold. G4: the grant carries the generation as if the gate were open. */
inline fault() {
  atomic {
    !translated && !range_lock ->
    translated = true; translated_to = block;
    kept_block = block; kept_generation = daemon_generation
  }
}

byte daemon_generation = 1;       /* what the daemon holds in its own memory */

inline touch_page() {             /* a load through the mapping */
  if
  :: atomic { translated -> assert(!freed[translated_to]) }
  :: fault()
  fi
}

inline unpin() {
  pinned = false;
  atomic { empty(client_stores) -> slot = false }          /* U1: an exchange */
}

active proctype Client() {
  byte before, number, number_block, rounds;
  bool by_number;
  do
  :: rounds == PINS -> break
  :: rounds < PINS ->
       rounds++;
       /* P1: look at the gate; closed or changing is the slow path's business, which is not here. */
       if
       :: by_number = false
       :: atomic { by_number = true; number_block = kept_block; number = kept_generation }
       fi;
       before = word;
#ifdef WITHOUT_G4_CLOSED_WORD
       /* Only the generation is looked at, which a grant made during a break's sleep has as well. */
       if
       :: before & CHANGING -> goto next
       :: else
       fi;
#else
       if
       :: before & (CHANGING | CLOSED) -> goto next
       :: else
       fi;
#endif
#ifndef WITHOUT_G5_GENERATION
       if
       :: by_number && generation != number -> goto next
       :: else
       fi;
#endif
       /* P2: publish by exchange, which is a full fence, then look at the gate again. */
#ifdef WITHOUT_P2_FENCE
       client_stores!true;
#else
       atomic { empty(client_stores) -> slot = true };
#endif
#ifndef WITHOUT_P2_SECOND_LOOK
       if
       :: atomic { word == before -> pinned = true }
       :: else -> goto undo
       fi;
#else
       pinned = true;
#endif
       if
       :: by_number -> assert(!freed[number_block]); assert(!freed[number_block])
       :: else -> touch_page(); touch_page()
       fi;
undo:  unpin();
next:  atomic { before = 0; number = 0; number_block = 0; by_number = false }
  od
}

/* GateWriter::rewrite: changing; the list and the generation; the final word; a full fence. */
inline rewrite(flag) {
  daemon_stores!WORD,sequence + UNIT + CHANGING;
  daemon_stores!GENERATION,daemon_generation;
#ifdef WITHOUT_G2_SEQUENCE
  daemon_stores!WORD,flag;                                  /* the word comes back: only "closed" or "open" */
#else
  sequence = sequence + 2 * UNIT;
  daemon_stores!WORD,sequence + flag;
#endif
#ifndef WITHOUT_G3_FENCE
  empty(daemon_stores);
#endif
}

active proctype Break() {
  byte sequence, done;
  do
  :: done == BREAKS -> break
  :: done < BREAKS ->
       range_lock = true;
#ifdef WITHOUT_G3_ORDER
       !slot;                                               /* the scan comes first, then the gate closes */
       rewrite(CLOSED);
#else
       rewrite(CLOSED);
       do
       :: slot -> range_lock = false;                       /* busy: drop the lock, sleep, retake, look again */
          if
          :: !slot
          :: atomic { done > 0 -> rewrite(0); goto ended }  /* interrupted: nothing changed, the old generation */
          fi;
          range_lock = true
       :: !slot -> break
       od;
#endif
       translated = false;                                  /* recalled and acknowledged */
       atomic {
         assert(!pinned);
         freed[block] = true;
         block++
       };
#ifndef WITHOUT_G2_GENERATION
       daemon_generation++;
#endif
       rewrite(0);
ended: range_lock = false;
       done++
  od
}
