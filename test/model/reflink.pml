/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Two files that share a block, and everything that lets go of it at once.
 *
 * Stands for  the sharing of blocks in src/fs and src/alloc: clone, copy-on-write fault, truncate, the share counts
 * Rules       T1, T2, T3; races R28, R29
 * Modelled    files 0 and 1 share block 0. At the same time: a copy-on-write fault in file 0, truncates of both files, a clone of 0
 *             onto 1 and one of 1 onto 0. COPY_UNLOCKED: the fault drops its lock over the copy (T3's other way).
 * Checked     a block is freed exactly once and never while a file maps it or a copy reads it; in the end the counts are those of the
 *             maps; everybody ends.
 */
#define HOLE 9
#define BLOCKS 8
byte map[2];                      /* file -> block */
byte count[BLOCKS];
byte freed[BLOCKS];               /* how often */
byte next_block = 2;              /* block 1 is never used: freed blocks are not handed out again here */
byte lock[2];                     /* by file; one range */
byte ended;

inline take(file, who) { atomic { lock[file] == 0 -> lock[file] = who } }
inline drop(file)      { lock[file] = 0 }

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

proctype CopyOnWrite(byte file) {
  byte source, copy, old;
  take(file, 1);
  source = map[file];
  if
  :: source == HOLE || count[source] == 1 -> drop(file); goto done    /* nobody shares it */
  :: else
  fi;
#ifdef COPY_UNLOCKED
#ifndef WITHOUT_T3_REFERENCE
  atomic { count[source]++ };                              /* a reference of its own */
#endif
#endif
  atomic { copy = next_block; next_block++; count[copy] = 1 };
#ifdef COPY_UNLOCKED
  drop(file);
#endif
  assert(freed[source] == 0);                              /* the copy, in two steps */
  assert(freed[source] == 0);
#ifdef COPY_UNLOCKED
  take(file, 1);
#ifndef WITHOUT_T3_RECHECK
  if
  :: map[file] != source ->                                /* changed meanwhile: the copy is of no use */
       let_go(copy);
#ifndef WITHOUT_T3_REFERENCE
       let_go(source);
#endif
       drop(file);
       goto done
  :: else
  fi;
#endif
#ifndef WITHOUT_T3_REFERENCE
  let_go(source);
#endif
#endif
  map[file] = copy;
  let_go(source);
  drop(file);
done:
  ended++
}

proctype Truncate(byte file) {
  byte b, old;
  take(file, 2);
  b = map[file];
  map[file] = HOLE;
  if
  :: b != HOLE -> let_go(b)
  :: else
  fi;
  drop(file);
  ended++
}

proctype Clone(byte from; byte to) {
  byte first, second, b, victim, old;
  /* T1: by inode number, whatever the direction. */
#ifdef WITHOUT_T1_ORDER
  first = from; second = to;
#else
  first = 0; second = 1;
#endif
  take(first, 3 + from);
  take(second, 3 + from);
  b = map[from];
  victim = map[to];
  if
  :: b != victim ->
       if
       :: b != HOLE -> atomic { count[b]++; assert(freed[b] == 0) }
       :: else
       fi;
       map[to] = b;
       if
       :: victim != HOLE -> let_go(victim)
       :: else
       fi
  :: else
  fi;
  drop(second);
  drop(first);
  ended++
}

init {
  byte i;
  atomic {
    count[0] = 2;
    run CopyOnWrite(0); run Truncate(1); run Clone(0, 1); run Clone(1, 0); run Truncate(0)
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
