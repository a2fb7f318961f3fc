/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The range lock under endless overlapping shared holders, and a break that drops it and takes it again.
 *
 * Stands for  layout/range_lock.cc: one list of all requests in order of arrival; a request is held when no earlier one conflicts
 * Rules       B1
 * Modelled    the list, for two threads that fault without end and one break that takes the lock twice. Entries of one range only.
 * Checked     under weak fairness the break gets the lock both times; writers exclude everybody.
 */
#define READERS 2
#define WRITER  READERS           /* its number in the list */
chan list = [3] of { byte };      /* arrival order, held and queued */
bool behind_writer[READERS];       /* the writer's entry is an earlier one */
byte readers;
bool writer, done;

#ifdef WITHOUT_B1_FIFO
#define READER_MAY(me)  (!writer)                          /* whoever can share does */
#define WRITER_MAY      (readers == 0 && !writer)
#else
/* A reader conflicts with an earlier writer, a writer with every earlier request. */
#define READER_MAY(me)  (!behind_writer[me])
#define WRITER_MAY      (list?[WRITER])
#endif

active [READERS] proctype Fault() {
end:
  do
  :: atomic { behind_writer[_pid] = list??[WRITER]; list!_pid };
     atomic { READER_MAY(_pid) -> readers++ };
     assert(!writer);
     atomic { readers--; list??eval(_pid) }
  od
}

active proctype Break() {
  byte round;
  do
  :: round < 2 ->
       list!WRITER;
       atomic { WRITER_MAY -> writer = true };
       assert(readers == 0);
       atomic { writer = false; list??WRITER; behind_writer[0] = false; behind_writer[1] = false };
       round++
  :: else -> break
  od;
  done = true
}

ltl break_ends { <> done }
