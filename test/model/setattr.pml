/* SPDX-License-Identifier: BSD-3-Clause
 *
 * SETATTR(size) through the mount while the kernel may hold dirty pages: the kernel has stopped the inode's write-back until the answer
 * comes, and who unmaps or exits with a dirty page of it hangs unkillably behind that.
 *
 * Stands for  layout/break.cc (must_not_sleep, verdict, begin, locked, apply), layout/break_sleep.cc (sleep, park)
 * Rules       C6; races R41, R42
 * Modelled    a process holds a pin, touches a page of the file through the mount (a fill for a writable handle; from its answer on the
 *             page may be dirty), and unpins at its end, which is by itself or by SIGKILL: its exit needs the write-back of the
 *             page. A truncate of the file sleeps for the pin.
 * Checked     the truncate ends, the process ends, and it is never unkillable while the SETATTR sleeps.
 */
mtype = { NONE, ARRIVED, AT_LOCK, PARKED, ANSWERED, REFUSED };
mtype fill = NONE;
bool may_be_dirty;                /* a fill for a writable handle was answered */
bool setattr_sleeps;              /* counted: sleeping_setattrs */
bool setattr_done;
bool pinned = true;
bool process_ended;
bool unkillable;                  /* in exit, behind the stopped write-back */
bool lock;
bool killed;

#ifdef WITHOUT_C6_PARK
#define PARK_ON_ARRIVAL   false
#define PARK_AT_LOCK      false
#else
#define PARK_ON_ARRIVAL   setattr_sleeps
#ifdef WITHOUT_C6_PARK_AT_LOCK
#define PARK_AT_LOCK      false   /* only fills that arrive later are parked */
#else
#define PARK_AT_LOCK      setattr_sleeps
#endif
#endif

active proctype Process() {
  if
  :: fill = ARRIVED;
     if
     :: fill == ANSWERED || fill == REFUSED                /* the fault returns */
     :: killed                                             /* a fault that waits for a fill is killable */
     fi
  :: skip
  fi;
  /* The end: unmap, exit. Dirty pages are written back first, which waits for the SETATTR that the kernel has under way. */
  if
  :: may_be_dirty && setattr_sleeps -> unkillable = true; setattr_done; unkillable = false
  :: else
  fi;
  pinned = false;
  process_ended = true
}

active proctype Kill() {
  killed = true
}

active proctype Fill() {
end:
  fill == ARRIVED;
again:
  if
  :: PARK_ON_ARRIVAL -> goto parked
  :: else
  fi;
  fill = AT_LOCK;
  atomic { !lock -> lock = true };
  /* apply(): under the inode's mutex, the page becomes the cache's, unless a SETATTR sleeps. */
  atomic {
    if
    :: PARK_AT_LOCK -> lock = false; goto parked
    :: else -> may_be_dirty = true; fill = ANSWERED
    fi
  };
  lock = false;
  goto ended;
parked:
  fill = PARKED;
  if
  :: !setattr_sleeps -> fill = ARRIVED; goto again
  :: fill = REFUSED                                        /* EINTR at its deadline */
  fi;
ended:
  skip
}

active proctype Setattr() {
  atomic { !lock -> lock = true };
  do
  :: !pinned -> break
  :: pinned ->
#ifndef WITHOUT_C6_VERDICT
       if
       :: may_be_dirty -> break                            /* must_not_sleep: the busy blocks go to quarantine */
       :: else
       fi;
#endif
       lock = false;
#ifdef WITHOUT_C6_SECOND_VERDICT
       setattr_sleeps = true;
#else
       /* Counted as sleeping, and looked once more, in one step. */
       atomic {
         setattr_sleeps = true;
         if
#ifndef WITHOUT_C6_VERDICT
         :: may_be_dirty -> goto retake
#endif
         :: else
         fi
       };
#endif
       !pinned;
retake:
       atomic { !lock -> lock = true }
  od;
  atomic { setattr_sleeps = false; setattr_done = true };
  lock = false
}

active proctype Watch() {
  timeout;
  assert(setattr_done && process_ended && !unkillable)
}
