/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One page between direct mappers and the kernel's page cache.
 *
 * Stands for  layout/page_cache.cc, layout/layout_impl.cc (with_fill, may_write_back), layout/break_recall.cc (recall, begin_drop),
 *             layout/client_layout.cc (with_fault), fuse/notifier.cc, fs/file_write.cc (write_back); the kernel as facts are known
 * Rules       C1, C2 (no lock), C3, C4, C5
 * Modelled    a process that loads and stores through a mapping of the mount, the kernel's folio (locked while a READ fills it and while
 *             an invalidation writes it back), reclaim; a client that faults, loads, stores and pins directly; the daemon's range
 *             lock, fills, direct faults, and notifications from threads of their own. Stores are counted: "last" is the newest.
 * Checked     every load, on either side, sees the last store (so no update is lost); a pin's translation stays; nobody hangs;
 *             direct_faults_end: under weak fairness also while the process touches its page without end (ENDLESS).
 *
 * Simplified  recalls are answered at once (grant_recall.pml); a break that waits for pins is "!pinned" (break.pml).
 */
#ifndef TOUCHES
#define TOUCHES 2
#endif

mtype = { ABSENT, FILLING, CLEAN, DIRTY, WRITING };       /* the folio; locked while FILLING and WRITING */
mtype:owner = { NOBODY, CACHE, DRAINING };                 /* C1; direct is "translated" */

/* ---- the kernel ---- */
mtype folio = ABSENT;
byte cached;                      /* what the folio holds */
bool read_sent, read_answered;    /* a READ of the page is under way; the daemon has answered */
bool write_sent;                  /* a WRITE for the invalidation */

/* ---- the daemon ---- */
mtype:owner owner = NOBODY;
byte drop;                        /* DRAINING: which invalidation ends it */
byte carries_out[2];              /* by thread of the notifier */
chan invalidate = [1] of { byte };    /* for the notifier's threads */
byte pool;                        /* what the pool holds */
chan range_lock = [3] of { byte };    /* FIFO (B1); the first one holds it */
bool gate_closed;                 /* by a fill that waits for a pin */

/* ---- the client ---- */
bool translated, pinned;
bool faulting;
bool going_on;                    /* the direct fault dropped the lock while the page drained, and has not got it back */

byte last;                        /* the newest store */

active proctype Process() {
  byte n;
end:
  do
#ifndef ENDLESS
  :: n == TOUCHES -> break
  :: n < TOUCHES -> n++;
#else
  :: skip;
#endif
again:
     if
     :: atomic { folio == CLEAN || folio == DIRTY ->
#ifdef ENDLESS
          folio = DIRTY
#else
          assert(cached == last);
          if
          :: last++; cached = last; folio = DIRTY
          :: skip
          fi
#endif
        }
     :: atomic { folio == ABSENT -> folio = FILLING; read_sent = true };
        read_answered;
        atomic { read_answered = false; cached = pool; folio = CLEAN };
        goto again
     :: folio == WRITING -> folio != WRITING; goto again
     fi
  od
}

active proctype Reclaim() {
end:
  do
  :: atomic { folio == CLEAN -> folio = ABSENT; cached = 0 }
  od
}

/* notify_inval_inode of this page, on threads that serve nothing else. */
active [2] proctype Notifier() {
#define mine carries_out[_pid - 2]
end:
  do
  :: invalidate?mine ->
       if
       :: folio == ABSENT
       :: atomic { folio == CLEAN -> folio = ABSENT; cached = 0 }
       :: atomic { folio == DIRTY -> folio = WRITING; write_sent = true };
          !write_sent;
          atomic { folio = ABSENT; cached = 0 }
          /* FILLING, WRITING: it waits for the folio's lock */
       fi;
       atomic {                                            /* drop_done */
         if
#ifdef WITHOUT_C4_DROP_NUMBERS
         :: owner == DRAINING -> owner = NOBODY            /* whichever returns ends what drains now */
#else
         :: owner == DRAINING && drop == mine -> owner = NOBODY
#endif
         :: else
         fi;
         mine = 0
       }
  od
}

#define WRITE_BACK  1
#define FILL        2
#define FAULT       3
inline take_lock(me) { range_lock!me; range_lock?[me] }
inline drop_lock(me) { range_lock?me }

active proctype WriteBack() {
end:
  do
#ifdef WITHOUT_C3_AT_ONCE
  :: write_sent -> take_lock(WRITE_BACK); atomic { pool = cached; write_sent = false }; drop_lock(WRITE_BACK)
#else
  :: atomic { write_sent -> pool = cached; write_sent = false }
#endif
  od
}

/* A READ from the kernel: in hand at once, then an operation that takes the lock like a break. */
active proctype Fill() {
end:
  do
  :: read_sent ->
#ifdef WITHOUT_C4_UNANSWERED
       /* A fill of a page that drains is answered at once, and the draining begins again. */
       if
       :: atomic { owner == DRAINING -> owner = CACHE; read_sent = false; read_answered = true; goto next }
       :: else
       fi;
#endif
#ifndef WITHOUT_C4_PROOF
       owner = NOBODY;                                     /* not answered, so not cached: whatever waits for that goes on */
#endif
       take_lock(FILL);
#ifndef WITHOUT_C4_FILL_BEHIND
       /* What waited for this page to drain goes first, although it had to drop the lock. */
       do
       :: going_on -> drop_lock(FILL); range_lock??[FAULT] || !going_on; take_lock(FILL)
       :: else -> break
       od;
#endif
#ifdef WITHOUT_C4_PROOF
       do
       :: owner == DRAINING -> drop_lock(FILL); owner != DRAINING; take_lock(FILL)
       :: else -> break
       od;
#endif
#ifndef WITHOUT_C5_PINS
       gate_closed = true;
       do
       :: pinned -> drop_lock(FILL); !pinned; take_lock(FILL)
       :: else -> break
       od;
#endif
#ifndef WITHOUT_C1_RECALL
       translated = false;
#endif
       atomic { owner = CACHE; read_sent = false; read_answered = true; gate_closed = false };
       drop_lock(FILL);
next:  skip
  od
}

#define USED(n)         (carries_out[0] == n || carries_out[1] == n || invalidate??[n])
#define UNUSED_NUMBER   (!USED(1) -> 1 : (!USED(2) -> 2 : 3))
inline direct_fault() {
  faulting = true;
  take_lock(FAULT);
#ifndef WITHOUT_C1_DRAIN
  do
  :: owner == NOBODY -> break
  :: atomic { owner == CACHE && empty(invalidate) -> owner = DRAINING; drop = UNUSED_NUMBER; invalidate!drop }
  :: owner == CACHE && full(invalidate) ->                 /* the real queue is endless; this one holds one entry */
       going_on = true;
       drop_lock(FAULT);
       empty(invalidate) || owner != CACHE;
       take_lock(FAULT);
       going_on = false
  :: owner == DRAINING ->
#ifndef WITHOUT_B4_DROPPED_LOCK
       /* Within recall_bound the lock is kept, after that it is dropped (B4). */
       if
       :: owner != DRAINING
       :: going_on = true; drop_lock(FAULT); owner != DRAINING; take_lock(FAULT); going_on = false
       fi
#else
       owner != DRAINING
#endif
  od;
#endif
  atomic { translated = true; faulting = false };
  drop_lock(FAULT)
}

active proctype Client() {
  byte n;
end:
  do
#ifndef ENDLESS
  :: n == TOUCHES -> break
  :: n < TOUCHES -> n++;
#else
  :: skip;
#endif
again:
     if
     :: atomic { translated ->
#ifndef ENDLESS
          assert(pool == last);
          if
          :: last++; pool = last
          :: skip
          fi
#endif
        }
     :: !translated -> direct_fault(); goto again
     fi;
     if
     :: atomic { translated && !gate_closed -> pinned = true };
        assert(translated);
        pinned = false
     :: skip
     fi
  od
}

#ifdef ENDLESS
ltl direct_faults_end { [] (faulting -> <> !faulting) }
#endif
