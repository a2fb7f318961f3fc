/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Grants and recalls of one page between the daemon and one client.
 *
 * Stands for  server/outbox.cc, server/faults.cc, layout/client_layout.cc (grant, recall_acknowledged), layout/break_recall.cc
 *             (send_recall, force_or_refuse), layout/held_back.cc, client/service.cc, client/faults.cc
 * Rules       F1, F2, F3, F4, B4 (a recall that was sent outlives its break)
 * Modelled    the client: a service thread that carries out what the one FIFO says and acknowledges recalls, and threads that load
 *             from the page and fault when they must. The daemon: an event loop that serves faults and acknowledgements, changes that
 *             recall the page, may be interrupted while they wait for the acknowledgement, or force their end. Sockets hold one packet.
 * Checked     no load meets a freed block, no translation is left to one; when nothing can happen any more all loads are done.
 */
#ifndef CHANGES
#define CHANGES 2
#endif
#ifndef LOADERS
#define LOADERS 2
#endif
#define LOADS 2

mtype = { GRANT, RECALL, FAULT, ACK };
chan down    = [1] of { mtype, byte };    /* to the client; a grant says of which layout it is */
chan apart   = [6] of { mtype, byte };    /* WITHOUT_F1_ONE_FIFO: grants go here */
chan up      = [1] of { mtype, byte };
chan waiting = [5] of { mtype, byte };    /* outbox: what the socket did not take at once */

/* ---- the daemon's books ---- */
byte layout;                      /* version; each change frees the block and puts another there */
bool lock;                        /* held exclusively by a change */
bool granted;                     /* what the client may have translated, but for ... */
byte pending;                     /* ... what the recalls that were sent, and not acknowledged, are about */
byte changes;
bool held_back;                   /* a forced end left this block in quarantine (F4) */
byte held_version;
bool faulted;                     /* a fault waits for the lock */

/* ---- the client ---- */
bool translated; byte version;
bool served[LOADERS];
bool library_mutex;
byte loads_done;

#define FREED(v)  ((v) < layout && !(held_back && (v) == held_version))

active [LOADERS] proctype Loader() {
  byte n;
  do
  :: n == LOADS -> break
  :: n < LOADS ->
again:
       if
       :: atomic { translated -> assert(!FREED(version)); n++; loads_done++ }
       :: else ->
#ifdef WITHOUT_F3_NO_LOCK_OVER_FAULTS
            atomic { !library_mutex -> library_mutex = true };
#endif
            served[_pid] = false;
            up!FAULT,0;
            served[_pid];                                  /* the kernel wakes the thread when something was installed */
#ifdef WITHOUT_F3_NO_LOCK_OVER_FAULTS
            library_mutex = false;
#endif
            goto again
       fi
  od
}

active proctype Service() {
  mtype what; byte value;
end:
  do
  :: down?what,value ->
#ifdef WITHOUT_F3_NO_LOCK_OVER_FAULTS
       atomic { !library_mutex -> library_mutex = true };
#endif
       if
       :: what == GRANT -> atomic { translated = true; version = value; served[0] = true; served[LOADERS - 1] = true }
       :: what == RECALL ->
#ifdef WITHOUT_F1_ACK_AFTER
            up!ACK,0;
            atomic { translated = false; version = 0 }
#else
            atomic { translated = false; version = 0 };
            up!ACK,0
#endif
       fi;
#ifdef WITHOUT_F3_NO_LOCK_OVER_FAULTS
       library_mutex = false;
#endif
       value = 0
#ifdef WITHOUT_F1_ONE_FIFO
  :: apart?what,value -> atomic { translated = true; version = value; served[0] = true; served[LOADERS - 1] = true; value = 0 }
#endif
  od
}

#ifdef WITHOUT_F2_MEMORY
#define ROOM  nfull(down)                                  /* else the daemon waits for the client to read */
#else
#define ROOM  true
#endif
/* F2: what the socket does not take waits in memory; packets leave in order. */
inline send(what_to, number) {
#ifdef WITHOUT_F2_MEMORY
  down!what_to,number                                      /* there is ROOM */
#else
  waiting!what_to,number
#endif
}
#ifndef WITHOUT_F2_MEMORY
active proctype Outbox() {
  mtype what; byte value;
end:
  do
  :: atomic { nfull(down) && nempty(waiting) -> waiting?what,value; down!what,value; value = 0 }
  od
}
#endif

/* Look-up and enqueueing under one shared hold; book and FIFO in one step. */
inline grant() {
#ifdef WITHOUT_F1_ONE_FIFO
  atomic { granted = true };
  apart!GRANT,layout
#else
#ifdef WITHOUT_F1_ONE_HOLD
  looked_up = layout;                                      /* ... and the hold ends here */
  granted = true;
  send(GRANT, looked_up);
  looked_up = 0
#else
  granted = true;
  send(GRANT, layout)
#endif
#endif
}

active proctype EventLoop() {
  byte looked_up;
end:
  do
  :: up?FAULT,_ ->
#ifdef WITHOUT_F1_ONE_HOLD
       if
       :: !lock -> grant()
       :: lock -> faulted = true
       fi
#else
       atomic {
         if
         :: lock -> faulted = true                         /* queued in the lock */
         :: !lock && ROOM -> grant()
         fi
       }
#endif
  :: atomic { faulted && !lock && ROOM -> faulted = false; grant() }
  :: up?ACK,_ ->
       atomic {
         pending--;
#ifdef WITHOUT_F1_BOOK
         granted = false;                                  /* covers everything, also what was granted since */
#endif
         if
         :: pending == 0 -> held_back = false; held_version = 0    /* F4: now the block may be reused */
         :: else
         fi
       }
  od
}

active proctype Change() {
  do
  :: changes == CHANGES -> break
  :: changes < CHANGES ->
       atomic { !lock -> lock = true };
       /* B3: recall what is granted, wait for what is pending. */
       if
       :: atomic { granted && ROOM -> granted = false; pending++; send(RECALL, 0) }
       :: !granted
       fi;
       if
       :: pending == 0 -> atomic { layout++; changes++; lock = false }
       :: atomic { pending > 0 -> lock = false; changes++ }  /* interrupted: nothing changed; the recall goes on */
#ifdef FORCE
       :: atomic { pending > 0 && !held_back ->            /* the recall's deadline: end the operation without an answer */
#ifndef WITHOUT_F4_QUARANTINE
            held_back = true; held_version = layout;
#endif
            layout++; changes++; lock = false }
#endif
       fi
  od
}

active proctype Watch() {
  timeout;
  assert(loads_done == LOADERS * LOADS);
  assert(!(translated && FREED(version)))
}
