/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Threads that change a layout while they hold pins: a circle of waits must be seen by whoever closes it.
 *
 * Stands for  layout/wait_graph.cc (sleep, reaches), layout/break_sleep.cc (sleep)
 * Rules       A6; races R28, R37
 * Modelled    three threads, each with a pin on its own page, each of which may break one page (its own, too) and unpins afterwards.
 * Checked     nobody sleeps for ever; EDEADLK is given only where there is a circle (a thread whose way is free is not refused).
 */
#define THREADS 3
#define NOBODY  9

bool held[THREADS] = true;
byte waits_for[THREADS] = NOBODY;     /* the graph: thread -> its operation -> the thread that holds the pin */

/* Following the graph from the holder leads back to `me`. Three threads: three steps. */
#define NEXT(t)    (t == NOBODY -> NOBODY : waits_for[t])
#ifdef WITHOUT_A6_SEARCH
#define CIRCLE(me, holder)  (holder == me)                 /* only the thread itself is looked for */
#else
#ifdef WITHOUT_A6_DEPTH
#define CIRCLE(me, holder)  (holder == me || waits_for[holder] == me)
#else
#define CIRCLE(me, holder)  (holder == me || waits_for[holder] == me || (waits_for[holder] < THREADS && step_two == me))
#endif
#endif
#ifdef WITHOUT_A6_OWN_THREAD
#define OWN(me, holder)     (holder == me)
#else
#define OWN(me, holder)     false
#endif

active [THREADS] proctype Thread() {
  byte me = _pid, page, step_two = NOBODY;
  if
  :: page = 0
  :: page = 1
  :: page = 2
  :: goto unpin                                            /* this one changes nothing */
  fi;
again:
#ifndef WITHOUT_A6_ONE_MUTEX
  atomic {
#endif
    if
    :: !held[page] -> goto apply
    :: held[page] ->
         if
         :: waits_for[page] < THREADS -> step_two = waits_for[waits_for[page]]
         :: else -> step_two = NOBODY
         fi;
         if
         :: CIRCLE(me, page) && !OWN(me, page) -> assert(held[me]); goto unpin     /* EDEADLK */
         :: else
         fi
    fi;
    waits_for[me] = page
#ifndef WITHOUT_A6_ONE_MUTEX
  }
#endif
  ;
  !held[page];
  waits_for[me] = NOBODY;
  goto again;
apply:
  skip;
unpin:
  held[me] = false
}
