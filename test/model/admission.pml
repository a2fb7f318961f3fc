/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Who passes a break that waits: no starving truncate, and no deadlock of a holder that needs one more pin.
 *
 * Stands for  layout/slow_pin.cc (locked, may_pass), client/pins.cc (begin_episode), layout/break_scan.cc (close_gates, tickets)
 * Rules       A1, A2, A3, A4
 * Modelled    two threads that pin and unpin two pages for ever in a pattern (SCENARIO), and one or two breaks that come again and
 *             again. Tickets only ever serve to compare an episode with a break, so they are kept as that: older[t][w] is "the episode
 *             of t began before w drew its ticket".
 * Checked     under weak fairness: every break ends (breaks_end), every pin request is granted or refused (requests_end). A scenario
 *             in which threads wait for each other's pins shows the deadlocks, one in which pins overlap without end the starvation.
 *
 * SCENARIO 1  pin, unpin: there is always a pin of one of the two
 *          2  hand over hand: the next page is pinned before the last one is let go; then nothing is held
 *          3  the other page first
 *          4  crosswise: each holds its own page and needs the other's
 *          5  thread 0 holds its pin until thread 1 has pinned and unpinned
 *          6  thread 0 goes hand over hand and never holds nothing, unless a request is refused with EDEADLK (A4)
 *          7  as 1, and thread 1 needs a second pin, for which a sibling's pin was its pass to the first
 * ONE_CLIENT  the threads are siblings. TWO_BREAKS  one a page, else one of page 0. WIDE_BREAK  the first is of both pages.
 */
#ifndef SCENARIO
#define SCENARIO 1
#endif
#define PASSES_MAX 2              /* kMaxPasses */

bool waiting[2];                  /* break w sleeps over page w */
bool held[4];                     /* by thread and page */
bool in_episode[2];               /* A2 */
bool older[4];                    /* by thread and break */
bool passed[4];                   /* A3 b, by thread and break */
byte passes[4];                   /* A4 */
bool asking[2];                   /* a pin request is under way */
bool refused;                     /* with EDEADLK */
bool turn;                        /* scenario 5 */

#define HELD(t, p)     held[(t) * 2 + (p)]
#define OLDER(t, w)    older[(t) * 2 + (w)]
#define PASSED(t, w)   passed[(t) * 2 + (w)]
#define PASSES(t, w)   passes[(t) * 2 + (w)]
#define HOLDS(t)       (HELD(t, 0) || HELD(t, 1))
#ifdef ONE_CLIENT
#define SIBLING(t)     (HOLDS(1 - (t)))
#else
#define SIBLING(t)     false
#endif

/* A3. The mutants are the rules that look simpler. */
#if defined(NOBODY_PASSES)
#define MAY_PASS(t, w) false
#elif defined(HOLDERS_OF_THE_CLIENT_PASS)
#define MAY_PASS(t, w) (HOLDS(t) || SIBLING(t))
#elif defined(HOLDERS_PASS)
#define MAY_PASS(t, w) HOLDS(t)
#elif defined(WITHOUT_A3_OWN_AGE)
#define MAY_PASS(t, w) (PASSED(t, w) || (SIBLING(t) && OLDER(1 - (t), w)))
#elif defined(WITHOUT_A3_PASSED_BEFORE)
#define MAY_PASS(t, w) (OLDER(t, w) || (SIBLING(t) && OLDER(1 - (t), w)))
#elif defined(WITHOUT_A3_SIBLINGS)
#define MAY_PASS(t, w) (OLDER(t, w) || PASSED(t, w))
#elif defined(INHERITED_AGE)       /* a sibling's pass is as good as its age */
#define MAY_PASS(t, w) (OLDER(t, w) || PASSED(t, w) || (SIBLING(t) && (OLDER(1 - (t), w) || PASSED(1 - (t), w))))
#else
#define MAY_PASS(t, w) (OLDER(t, w) || PASSED(t, w) || (SIBLING(t) && OLDER(1 - (t), w)))
#endif

#ifdef WITHOUT_A4_BOUND
#define EXHAUSTED(t, w) false
#else
#define EXHAUSTED(t, w) (PASSES(t, w) >= PASSES_MAX)
#endif
/* Break 0 is over page 0, or over both; break 1 is over page 1. */
#ifdef WIDE_BREAK
#define COVERS(w, p)    (waiting[w] && (w == 0 || p == 1))
#else
#define COVERS(w, p)    (waiting[w] && (w) == (p))
#endif
#define CLEAR(t, w, p)    (!COVERS(w, p) || (MAY_PASS(t, w) && !EXHAUSTED(t, w)))
#define NO_MORE(t, w, p)  (COVERS(w, p) && MAY_PASS(t, w) && EXHAUSTED(t, w) && HOLDS(t))

inline pin(p) {
  atomic {
    asking[me] = true;
#ifdef WITHOUT_A1_TICKET_SHOWN
    /* The ticket that this thread reads is an old one: its new episode looks older than a break that waits. */
    if :: !in_episode[me] -> OLDER(me, 0) = waiting[0]; OLDER(me, 1) = waiting[1] :: else fi;
#endif
#ifdef WITHOUT_A2_EPISODES
    OLDER(me, 0) = false; OLDER(me, 1) = false;           /* each request is as old as itself */
#endif
    in_episode[me] = true
  };
  if
  :: atomic { CLEAR(me, 0, p) && CLEAR(me, 1, p) ->       /* it must pass every one over its range */
       if :: COVERS(0, p) -> PASSED(me, 0) = true; PASSES(me, 0)++ :: else fi;
       if :: COVERS(1, p) -> PASSED(me, 1) = true; PASSES(me, 1)++ :: else fi;
       HELD(me, p) = true;
       asking[me] = false }
  :: atomic { NO_MORE(me, 0, p) || NO_MORE(me, 1, p) -> refused = (SCENARIO == 6); asking[me] = false }
  fi
}

inline unpin(p) {
  atomic {
    HELD(me, p) = false;
    if
    :: !HOLDS(me) ->
         in_episode[me] = false;
         OLDER(me, 0) = false; OLDER(me, 1) = false;
         PASSED(me, 0) = false; PASSED(me, 1) = false;
         PASSES(me, 0) = 0; PASSES(me, 1) = 0
    :: else
    fi
  }
}

active [2] proctype Thread() {
  byte me = _pid;
end:
  do
#if SCENARIO == 1
  :: pin(0); unpin(0)
#elif SCENARIO == 2
  :: pin(0); pin(1); unpin(0); pin(0); unpin(1); unpin(0)
#elif SCENARIO == 3
  :: pin(1); pin(0); unpin(0); unpin(1)
#elif SCENARIO == 4
  :: pin(me); pin(1 - me); unpin(1 - me); unpin(me)
#elif SCENARIO == 5
  :: me == 0 -> pin(0); turn = true; !turn; unpin(0)
  :: me == 1 -> turn; pin(0); unpin(0); turn = false
#elif SCENARIO == 6
  :: me == 0 ->
       pin(0);
       do
       :: pin(1);
          if :: refused -> unpin(0); refused = false; break :: else fi;
          unpin(0);
          pin(0);
          if :: refused -> unpin(1); refused = false; break :: else fi;
          unpin(1)
       od
  :: me == 1 -> pin(0); unpin(0)
#elif SCENARIO == 7
  :: me == 0 -> pin(0); unpin(0)
  :: me == 1 -> pin(0); pin(1); unpin(0); unpin(1)
#endif
  od
}

#ifdef WIDE_BREAK
#define NOT_BUSY(w)   (!HELD(0, 1) && !HELD(1, 1) && (w == 1 || (!HELD(0, 0) && !HELD(1, 0))))
#else
#define NOT_BUSY(w)   (!HELD(0, w) && !HELD(1, w))
#endif
inline break_page(w) {
  /* A1: the ticket is drawn and shown, then the gate closes: who is in an episode now is older. */
  atomic {
    waiting[w] = true;
    OLDER(0, w) = in_episode[0]; OLDER(1, w) = in_episode[1]
  };
  atomic {
    NOT_BUSY(w) ->
    waiting[w] = false;
    OLDER(0, w) = false; OLDER(1, w) = false;
    PASSED(0, w) = false; PASSED(1, w) = false;
    PASSES(0, w) = 0; PASSES(1, w) = 0
  }
}

active proctype Break0() {
end:
  do
  :: break_page(0)
  od
}
#ifdef TWO_BREAKS
active proctype Break1() {
end:
  do
  :: break_page(1)
  od
}
#endif

ltl breaks_end   { [] (waiting[0] -> <> !waiting[0]) && [] (waiting[1] -> <> !waiting[1]) }
ltl requests_end { [] (asking[0] -> <> !asking[0]) && [] (asking[1] -> <> !asking[1]) }
