/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Files that share one block let go of it, or store into it, while clients that do not answer may still read it as theirs.
 *
 * Stands for  alloc/holds.cc, alloc/quarantine.cc (release_quarantine), fs/share.cc (RunReleaser), fs/file_store.cc (take_over,
 *             copy_shared), layout/held_back.cc
 * Rules       F4, T2
 * Modelled    three files own one block. Each lets go of it (truncate, or a copy in its place) or stores into it in place, if it finds
 *             itself the only owner. Letting go is forced: whether the file's reader still has a translation is left open; if he has,
 *             he gives it up at any later time, and the hold goes after that. What is counted is counted under the lock of the
 *             allocator's trees, up to the commit.
 * Checked     nobody stores into the block in place, and it is not free, while somebody still reads it; it is freed once, and in the
 *             end it is free or has an owner, and nothing is in quarantine.
 */
#define FILES 3

byte owners = FILES;
byte holds, stale;                /* clients with a translation that their file has lost */
bool quarantined, freed;
byte ended;

inline free_block() { assert(!freed && stale == 0); freed = true }

/* A file lets go; `reads`: its reader has not answered. */
inline let_go(reads) {
  atomic {
    owners--;
    stale = stale + reads;
#ifndef WITHOUT_F4_HOLD
#ifndef WITHOUT_F4_ONE_STEP
    holds = holds + reads;
#endif
#endif
    if
    :: owners > 0
#ifdef WITHOUT_F4_HELD_FREE
    :: owners == 0 && !reads -> free_block()
    :: owners == 0 && reads -> quarantined = true
#else
    :: owners == 0 && holds == 0 -> free_block()
    :: owners == 0 && holds > 0 -> quarantined = true
#endif
    fi
  }
#ifdef WITHOUT_F4_ONE_STEP
  holds = holds + reads
#endif
}

proctype File() {
  bool reads, alone;
  if
  :: atomic { alone = (owners + holds == 1) };             /* a store: take_over(), or a copy */
     if
     :: alone -> assert(stale == 0); assert(stale == 0)     /* it takes a while */
     :: else -> goto give_up
     fi
  :: give_up:
     if
     :: reads = true
     :: reads = false
     fi;
     let_go(reads);
     if
     :: reads ->
          stale--;                                          /* acknowledged, or dead */
          atomic {
#ifndef WITHOUT_F4_HOLD
            holds--;
#endif
            if
#ifdef WITHOUT_F4_COUNT
            :: quarantined -> quarantined = false; free_block()
            :: !quarantined
#else
            :: quarantined && holds == 0 -> quarantined = false; free_block()
            :: !quarantined || holds > 0
#endif
            fi
          }
     :: else
     fi
  fi;
  ended++
}

init {
  atomic { run File(); run File(); run File() };
  ended == FILES;
  assert(freed == (owners == 0));
  assert(!quarantined && holds == 0)
}
