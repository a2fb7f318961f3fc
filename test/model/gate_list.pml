/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The gate's list of closed ranges, rewritten by the daemon while a client reads it.
 *
 * Stands for  layout/gate.cc (close, count_out, rewrite), proto/pin_fast_path.h (open_gate_word)
 * Rules       G1 (closings are counted), G6 (ranges, sorted list, overflow closes all), the sequence lock around both
 * Modelled    three pages; three breaks of one page each, the client pins page 0 again and again. The list has room for two ranges
 *             and is rewritten entry by entry, sorted, so that an entry moves when another closing comes or goes.
 * Checked     no pin stands on page 0 when its break changes the layout.
 *
 * Simplified  stores reach memory at once (pin_and_gate.pml is about store buffers); ranges do not merge.
 */
#ifndef PINS
#define PINS 2
#endif
#define ROOM      2               /* kClosedRanges */
#define NOTHING   9
#define CLOSED    1
#define CHANGING  2
#define UNIT      4
#ifdef WITHOUT_G6_OVERFLOW
#define OVERFLOWING 1             /* such a list is written, as far as it fits */
#else
#define OVERFLOWING 0
#endif

byte word;
byte count;                       /* closed_count; more than ROOM: everything is closed */
byte entry[ROOM] = NOTHING;       /* the page that is closed */
bool slot;
bool pinned;
byte closings[3];                 /* by page: how many breaks hold it closed */

active proctype Client() {
  byte before, i, n, rounds;
  bool closed;
  do
  :: rounds == PINS -> break
  :: rounds < PINS ->
       rounds++;
       before = word;
       closed = false;
#ifndef WITHOUT_G6_CHANGING
       if
       :: before & CHANGING -> goto next
       :: else
       fi;
#endif
       if
       :: before & CLOSED ->
            n = count; i = 0;
#ifdef WITHOUT_G6_OVERFLOW
            if
            :: n > ROOM -> n = ROOM                       /* what is not in the list is taken for open */
            :: else
            fi;
#else
            if
            :: n > ROOM -> goto next
            :: else
            fi;
#endif
            do
            :: i < n -> closed = closed || (entry[i] == 0); i++
            :: else -> break
            od
       :: else
       fi;
       if
       :: closed -> goto next
       :: else
       fi;
       slot = true;                                       /* P2 */
       if
       :: atomic { word == before -> pinned = true }
       :: else
       fi;
       atomic { pinned = false; slot = false };
next:  atomic { before = 0; i = 0; n = 0; closed = false }
  od
}

/* Under the inode's mutex, so one rewriting at a time; readers see every step of it. */
bool mutex;
byte sequence;

inline rewrite() {
#ifndef WITHOUT_G6_CHANGING
  word = sequence + UNIT + CHANGING;
#endif
  atomic { total = (closings[0] > 0) + (closings[1] > 0) + (closings[2] > 0); count = total };
  if
  :: total <= ROOM + OVERFLOWING ->
     /* sorted, downwards: a new closing pushes the others along */
     at = 0; page = 3;
     do
     :: page > 0 && at < ROOM ->
          page--;
          if
          :: closings[page] > 0 -> entry[at] = page; at++
          :: else
          fi
     :: else -> break
     od
  :: else
  fi;
  atomic {
    sequence = sequence + 2 * UNIT;
    word = sequence + (total > 0 -> CLOSED : 0);
    at = 0; page = 0; total = 0
  }
}

proctype Break(byte mine) {
  byte total, at, page;
  atomic { !mutex -> mutex = true };
  closings[mine]++;
  rewrite();
  mutex = false;
  if
  :: mine == 0 ->
       !slot;                                             /* the scan, until it is clean */
       assert(!pinned)                                    /* the change */
  :: else
  fi;
  atomic { !mutex -> mutex = true };
#ifdef WITHOUT_G1_COUNT
  closings[0] = 0; closings[1] = 0; closings[2] = 0;      /* whoever ends stores "open" */
#else
  closings[mine]--;
#endif
  rewrite();
  mutex = false
}

init { atomic { run Break(0); run Break(1); run Break(2) } }
