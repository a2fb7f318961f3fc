/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A notification over two pages, one of which a fill holds locked: that one must not keep the other.
 *
 * Stands for  fuse/notifier.cc (carry_out: one folio a call), layout/page_cache.cc (begin_drop, fill_in_hand: what is left of a stuck
 *             drop is issued anew), layout/break.h (kFillDeadline)
 * Rules       C2 (one folio a call, only pages of the cache), C4 (drops issued anew), C5 (a finite deadline)
 * Modelled    a client holds a pin on page 0 and needs a direct fault on page 1, which the cache owns, before it can unpin. A process
 *             fills page 0 through the mount, and so waits for the pin. A break over both pages asks the kernel to drop them.
 *             HOLDER_FILLS: the holder itself touches page 0 through the mount; only the fill's deadline can end that.
 * Checked     nobody waits for ever. (Without HOLDER_FILLS also when the fill has no deadline: C2 and C4 must not lean on it.)
 */
bool pinned = true;
bool cached[2] = true;
bool locked[2];                   /* the folio, by a fill */
bool fill_sent;

active proctype Fill() {          /* the kernel's side, and the daemon's operation that waits for the pin */
  atomic { cached[0] = false; locked[0] = true; fill_sent = true };
  if
  :: !pinned
#ifndef WITHOUT_C5_DEADLINE
  :: true                         /* five seconds: the reader gets an error */
#endif
  fi;
  locked[0] = false
}

active proctype Notification() {
  (fill_sent);                    /* the schedule that hurts */
#ifdef WITHOUT_C2_ONE_FOLIO
  atomic { !locked[0] && !locked[1] -> cached[0] = false; cached[1] = false }
#else
  atomic { !locked[0] -> cached[0] = false };      /* page by page, in order: sticks at page 0 */
  cached[1] = false
#endif
}

#ifndef WITHOUT_C4_ISSUED_ANEW
active proctype NotificationOfTheRest() {          /* issued when the fill of page 0 was in hand */
  (fill_sent);
  atomic { !locked[1] -> cached[1] = false }
}
#endif

active proctype Client() {
#ifdef HOLDER_FILLS
  (fill_sent);
  !locked[0];                     /* its own load through the mount */
#endif
  !cached[1];                     /* the direct fault */
  pinned = false
}
