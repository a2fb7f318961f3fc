/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Two files that share a block, and everything that shares it further, stores, or lets go of it, at once.
 *
 * Stands for  fs/clone_mark.cc, fs/clone_share.cc, fs/share.cc (unshare_range, RunReleaser), fs/truncate.cc, alloc/shares.cc
 * Rules       T1, T2, T3, and of P4 that nobody stores into a shared block; races R28, R29
 * Modelled    files 0 and 1 share block 0. At the same time: a store into file 0, truncates of both files, a clone of 0 onto 1 and one of
 *             1 onto 0. Each file has a range lock (one range here), held over breaks, and an inode mutex, held over transactions. A
 *             clone marks its source as shared under a break of the source; then, under a break of the destination and both mutexes,
 *             it shares what is still marked, or goes round again.
 * Checked     a block is freed exactly once, and never while a file maps it or a copy reads it; no store meets a block with two
 *             owners; in the end the counts are those of the maps; everybody ends.
 */
#define HOLE   9
#define BLOCKS 8
#define ROUNDS 2

byte map[2];                      /* file -> block */
bool flagged[2] = true;           /* may have other owners: ask */
bool writable[2];                 /* somebody has a translation to store through */
byte count[BLOCKS];
byte freed[BLOCKS];               /* how often */
byte next_block = 2;              /* block 1 is never used: freed blocks are not handed out again here */
bool range_lock[2], mutex[2];
byte ended;

inline take(lock) { atomic { !lock -> lock = true } }
inline drop(lock) { lock = false }

/* T2: count down and test in one step. */
inline let_go(b) {
#ifdef WITHOUT_T2_ATOMIC
  old = count[b];
  count[b] = old - 1;
  if
  :: count[b] == 0 -> freed[b]++
  :: else
  fi;
  old = 0
#else
  atomic {
    count[b]--;
    if
    :: count[b] == 0 -> freed[b]++
    :: else
    fi
  }
#endif
  ;
  assert(freed[b] <= 1)
}

proctype Store(byte file) {
  byte source, copy, old;
  take(range_lock[file]);
  if
  :: flagged[file] ->             /* a write fault: the block becomes the file's own */
       take(mutex[file]);
       source = map[file];
       if
       :: source == HOLE
       :: source != HOLE && count[source] == 1
       :: source != HOLE && count[source] > 1 ->
            atomic { copy = next_block; next_block++; count[copy] = 1 };
#ifdef WITHOUT_T3_LOCK
            drop(mutex[file]);
            drop(range_lock[file]);
#endif
            assert(freed[source] == 0);                    /* the copy, in two steps */
            assert(freed[source] == 0);
#ifdef WITHOUT_T3_LOCK
            take(range_lock[file]);
            take(mutex[file]);
#ifdef WITH_RECHECK_ALONE
            if
            :: map[file] != source -> let_go(copy); goto unlock
            :: else
            fi;
#endif
#endif
            map[file] = copy;
            let_go(source)
       fi;
       flagged[file] = false;
unlock:
       drop(mutex[file])
  :: else
  fi;
  writable[file] = (map[file] != HOLE && !flagged[file]);
  drop(range_lock[file]);
  if
  :: atomic { writable[file] -> assert(count[map[file]] == 1) }
  :: !writable[file]
  fi;
  ended++
}

proctype Truncate(byte file) {
  byte b, old;
  take(range_lock[file]);
  writable[file] = false;         /* recalled */
  take(mutex[file]);
  b = map[file];
  map[file] = HOLE;
  flagged[file] = false;
  if
  :: b != HOLE -> let_go(b)
  :: else
  fi;
  drop(mutex[file]);
  drop(range_lock[file]);
  ended++
}

proctype Clone(byte from; byte to) {
  byte first, second, b, victim, old, round;
mark:
  take(range_lock[from]);
#ifndef WITHOUT_P4_MARK
  writable[from] = false;         /* a complete break: no store into it is under way */
  take(mutex[from]);
  flagged[from] = (map[from] != HOLE);
  drop(mutex[from]);
#endif
#ifndef WITHOUT_T1_ONE_RANGE
  drop(range_lock[from]);
#endif
  take(range_lock[to]);
  writable[to] = false;
  /* T1: by inode number, whatever the direction. */
#ifdef WITHOUT_T1_ORDER
  first = from; second = to;
#else
  first = 0; second = 1;
#endif
  take(mutex[first]);
  take(mutex[second]);
  b = map[from];
  victim = map[to];
  if
#ifndef WITHOUT_P4_MARK
  :: b != HOLE && !flagged[from] -> round++            /* stored into meanwhile */
#endif
  :: else ->
       round = ROUNDS;
       if
       :: b != victim ->
            if
            :: b != HOLE -> atomic { count[b]++; assert(freed[b] == 0) }
            :: else
            fi;
            map[to] = b;
            flagged[to] = (b != HOLE);
            if
            :: victim != HOLE -> let_go(victim)
            :: else
            fi
       :: else
       fi
  fi;
  drop(mutex[second]);
  drop(mutex[first]);
  drop(range_lock[to]);
#ifdef WITHOUT_T1_ONE_RANGE
  drop(range_lock[from]);
#endif
  if
  :: round < ROUNDS -> goto mark
  :: else
  fi;
  ended++
}

init {
  byte i;
  atomic {
    count[0] = 2;
    run Store(0); run Truncate(1); run Clone(0, 1); run Clone(1, 0); run Truncate(0)
  };
  ended == 5;
  do
  :: i < next_block ->
       assert(i == 1 || count[i] == (map[0] == i) + (map[1] == i));
       assert(i == 1 || (freed[i] > 0) == (count[i] == 0));
       i++
  :: else -> break
  od
}
