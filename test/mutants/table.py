# SPDX-License-Identifier: BSD-3-Clause
"""What scripts/mutants leaves out of the code, and which test must notice.

An edit is (file, text that occurs once in it, text in its place); PLANTED in the new text is true while the mutation is awake. `test` is
the beginning of a Catch2 test's name, or a word of a mount test's."""
import dataclasses


@dataclasses.dataclass
class Mutation:
    name: str
    rule: str
    program: str
    test: str
    edits: list


LAYOUT = "test/layout/test_layout"
L = "src/layout/"


def layout(name, rule, test, *edits):
    return Mutation(name, rule, LAYOUT, test, [(L + file, old, new) for file, old, new in edits])


def pins(name, rule, test, path, old, new):
    """A line of the fast path, which the library and the tests share."""
    return Mutation(name, rule, LAYOUT, test, [(path, old, new)])


def mounted(name, rule, subject, test, *edits):
    return Mutation(name, rule, f"test_{subject}.py", test, list(edits))


FAST_PATH = "src/proto/pin_fast_path.h"
MUTATIONS = [
    # ---- gates
    layout("gate-opened-by-anyone", "G1", "gate: closings are counted",
           ("gate.cc", "if (counted_in) closings_.erase(it);", "if (PLANTED) closings_.clear();\n  else if (counted_in) closings_.erase(it);")),
    layout("generation-kept", "G2", "recall: an interrupt in the recall phase",
           ("gate.cc", "if (new_generation != 0) generation_ = new_generation;", "if (new_generation != 0 && !PLANTED) generation_ = new_generation;")),
    layout("word-comes-back", "G2", "gate: a word never comes back",
           ("gate.cc", "gate_->word.store(sequence + 2 * proto::kGateSequenceUnit + flag,",
            "gate_->word.store((PLANTED ? 0 : sequence + 2 * proto::kGateSequenceUnit) + flag,")),
    layout("scan-before-closing", "G3", "layout: a pin that comes just before the gate closes",
           ("break.cc", "  close_gates();\n  PINDAX_STEP(\"break.closed\");\n  std::vector<BusyPin> busy = scan();",
            "  std::vector<BusyPin> early;\n  if (PLANTED) early = scan();\n  close_gates();\n  PINDAX_STEP(\"break.closed\");\n"
            "  std::vector<BusyPin> busy = PLANTED ? early : scan();")),
    layout("long-list-is-open", "G6", "gate: a list that is too long",
           ("gate.cc", "gate_->closed_count.store(overflow ? proto::kClosedRanges + 1 :",
            "gate_->closed_count.store(overflow && PLANTED ? 0 : overflow ? proto::kClosedRanges + 1 :")),
    # ---- pin and unpin
    pins("closed-range-not-seen", "P1", "pin: a closed gate publishes nothing", FAST_PATH,
         "if (begin < closed_end && closed_begin < end) return kNoGateWord;", "if (begin < closed_end && closed_begin < end && !PLANTED) return kNoGateWord;"),
    pins("no-second-look", "P2 R6", "pin: [R6] a million fast pins", FAST_PATH,
         "if (gate.word.load(std::memory_order_seq_cst) == before) [[likely]] return true;",
         "if (PLANTED || gate.word.load(std::memory_order_seq_cst) == before) return true;"),
    pins("undo-without-a-ring", "U1", "layout: [R1]", FAST_PATH,
         "if ((old & kSlotAwaited) != 0) [[unlikely]] ring();", "if ((old & kSlotAwaited) != 0 && !PLANTED) ring();"),
    layout("slow-pin-not-visible", "P3", "slow pin: the slot is active before the answer",
           ("slow_pin.cc", "      pin = make_visible();  // P3", "      pin = PLANTED ? Result<u64>(u64{0}) : make_visible();  // P3")),
    layout("shared-blocks-fast", "P4", "slow pin: over shared blocks",
           ("gate.cc", "gate_->slow.store(reasons,", "gate_->slow.store(PLANTED ? 0 : reasons,")),
    layout("mark-by-plain-store", "U2 R34", "layout: [R34]",
           ("slot_scan.cc", "  u64 expected = pin.state;\n",
            "  if (PLANTED) {\n    slots[pin.slot].state.store(pin.state | proto::kSlotAwaited);\n    return true;\n  }\n  u64 expected = pin.state;\n")),
    layout("scan-without-registration", "U2 R1", "layout: [R1]",
           ("break_scan.cc", "    t.client->wait(shared_from_this());", "    if (!PLANTED) t.client->wait(shared_from_this());")),
    layout("early-wake-dropped", "U3", "layout: a lost bell cannot happen",
           ("break_sleep.cc", "again = again || woken_ ||", "again = again || (woken_ && !PLANTED) ||")),
    layout("death-wakes-nobody", "U3 R10", "layout: [R10] a client's death",
           ("core.cc", "for (const auto& p : pins) p->wake();\n  client.wake_all();", "for (const auto& p : pins) p->wake();\n  if (!PLANTED) client.wake_all();")),
    layout("nobody-polls", "U3 D1 R10", "layout: [R10] a death that only polling shows",
           ("break_sleep.cc", "core_.options.rescan_period) && c->port->poll_dead())", "core_.options.rescan_period) && !PLANTED && c->port->poll_dead())")),
    # ---- break
    layout("readers-overtake", "B1", "range lock: new shared holders queue",
           ("range_lock.cc", "if (conflict(earlier, r)) return true;", "if ((!PLANTED || earlier.state_ == State::kHeld) && conflict(earlier, r)) return true;")),
    layout("one-scan-is-enough", "B2 R2", "layout: [R2]",
           ("break_scan.cc", "  if (targets.empty()) return {};", "  if (targets.empty() || (PLANTED && retries_ != 0)) return {};")),
    layout("lock-kept-asleep", "B2 R4", "layout: [R4]",
           ("break_sleep.cc", "  lock_held_ = false;\n  inode_->range_lock.release(lock_request_);  // B2",
            "  lock_held_ = PLANTED;\n  if (!lock_held_) inode_->range_lock.release(lock_request_);  // B2"),
           ("break.cc", "  const ByteRange range = hull(aligned(request_.lock_range), range_);\n",
            "  const ByteRange range = hull(aligned(request_.lock_range), range_);\n"
            "  if (PLANTED && lock_held_) inode_->range_lock.release(lock_request_);\n")),
    layout("answers-not-awaited", "B3", "recall: the change waits until the translation is gone",
           ("break_recall.cc", "    pending = anything_pending();", "    pending = !PLANTED && anything_pending();")),
    layout("lock-kept-over-answers", "B4", "recall: a slow acknowledgement costs the lock",
           ("break_recall.cc", "  if (in_time && !expired()) return keep_waiting_for_recall();",
            "  if (in_time && PLANTED) {\n    MutexLock lock(inode_->mutex);\n    phase_ = Phase::kRecalling;\n    ++step_;\n"
            "    arm(Clock::now() + core_.options.recall_bound);\n    return;\n  }\n  if (in_time && !expired()) return keep_waiting_for_recall();")),
    layout("interrupt-waits", "R8", "layout: [R8] [R9] an interrupt",
           ("break_sleep.cc", "    claimed = phase_ == Phase::kSleeping ||", "    claimed = (phase_ == Phase::kSleeping && !PLANTED) ||")),
    layout("deadline-applies", "B5 R9", "layout: [R9] a deadline",
           ("break.cc", "    case Verdict::kRefuse:\n", "    case Verdict::kRefuse:\n      if (PLANTED) return recall();\n")),
    layout("new-mapping-born-open", "R3", "layout: [R3]",
           ("client_layout.cc", "if (b->blocks_pins_in(mapping->range)) mapping", "if (b->blocks_pins_in(mapping->range) && !PLANTED) mapping")),
    layout("unmapped-is-forgotten", "R7", "layout: [R7]", ("inode_layout.cc", "  if (named) return false;", "  if (named && !PLANTED) return false;")),
    layout("any-pin-is-busy", "R13", "layout: [R13]",
           ("break_scan.cc", "intersect(intersect(pin.range, m->range), range_);", "PLANTED ? intersect(m->range, range_) : intersect(intersect(pin.range, m->range), range_);")),
    layout("ranges-in-bytes", "R14", "layout: [R14]",
           ("break.cc", "return r.empty() ? ByteRange{} : block_aligned(r);", "return r.empty() ? ByteRange{} : PLANTED ? r : block_aligned(r);")),
    Mutation("slots-not-clamped", "R33", "test/server/test_server", "server: [R33] forged slots",
             [(L + "slot_scan.h", "return std::min(header->high_water.load(std::memory_order_acquire), proto::kMaxSlots);",
               "return PLANTED ? header->high_water.load() : std::min(header->high_water.load(std::memory_order_acquire), proto::kMaxSlots);")]),
    # ---- who passes
    layout("ticket-not-shown", "A1", "slow pin: a new episode queues",
           ("core.cc", "  u64 shown = header->ticket.load(std::memory_order_relaxed);\n", "  if (PLANTED) return;\n  u64 shown = header->ticket.load(std::memory_order_relaxed);\n")),
    layout("everybody-passes", "A3 R5", "slow pin: a new episode queues", ("slow_pin.cc", "  if (!passes) return Pass::kNo;", "  if (!passes && !PLANTED) return Pass::kNo;")),
    layout("nobody-passes", "A3", "slow pin: an episode older than the break",
           ("slow_pin.cc", "const bool passes = request_.age < w.ticket() || w.has_passed(passer()) || siblings.oldest_age < w.ticket();",
            "const bool passes = !PLANTED && (request_.age < w.ticket() || w.has_passed(passer()) || siblings.oldest_age < w.ticket());")),
    layout("passes-without-bound", "A4", "slow pin: an endless episode", ("slow_pin.cc", "w.passes(passer()) >= kMaxPasses)", "w.passes(passer()) >= kMaxPasses && !PLANTED)")),
    layout("own-thread-not-seen", "A6 R37", "layout: [R37]",
           ("wait_graph.cc", "      if (t == target_owner) return true;", "      if (t == target_owner && !PLANTED) return true;")),
    layout("ended-pin-closes-cycle", "A6 R37", "slow pin: [R37] who ended",
           ("wait_graph.cc", "(lasts && !lasts())", "(lasts && !PLANTED && !lasts())")),
    layout("no-search", "A6 R28", "layout: [R28]",
           ("wait_graph.cc", "if (it != sleepers_.end() && seen.insert(n).second) stack", "if (it != sleepers_.end() && !PLANTED && seen.insert(n).second) stack")),
    # ---- grants and recalls
    layout("no-hold-over-the-look-up", "F1 R15 R16", "layout: [R15] [R16]",
           ("client_layout.cc", "  with_hold(in, pages, mode,", "  with_hold(in, PLANTED ? ByteRange{} : pages, mode,")),
    layout("acknowledgement-covers-later", "F1", "recall: an acknowledgement does not cover",
           ("client_layout.cc", "return p.id == recall; });\n", "return p.id == recall; });\n  if (PLANTED) mapping->granted.clear();\n")),
    layout("forced-blocks-are-free", "F4 R12", "recall: [R12] nobody acknowledges",
           ("break.cc", "std::vector<HeldBack::Spec> specs = held_back_specs();", "std::vector<HeldBack::Spec> specs;\n  if (!PLANTED) specs = held_back_specs();")),
    layout("pinned-pages-recalled", "R12", "policy: [R12] quarantine completes now",
           ("break_recall.cc", "= without_exempt(m, intersect(range_, m.range));",
            "= without_exempt(m, intersect(range_, m.range));\n      if (PLANTED) wanted.assign(intersect(range_, m.range), true);")),
    layout("death-frees-memory", "D1 R12", "policy: [R12] quarantine completes now",
           ("held_back.cc", "      if (m.client->gone.load()) return;", "      if (m.client->gone.load() && !PLANTED) return;")),
    layout("zeros-stay", "R18", "recall: [R18] [R19]",
           ("client_layout.cc", "return (quick = quick && !g.hole); });", "return (quick = quick && (PLANTED || !g.hole)); });")),
    # ---- revocation and shared blocks
    Mutation("watched-without-minor", "V1 R21", "test/client/test_client_pages", "watched pages: [R21]",
             [("src/client/userfaultfd.cc", "UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |",
               "UFFDIO_REGISTER_MODE_MISSING | (PLANTED ? 0 : UFFDIO_REGISTER_MODE_MINOR) |")]),
    layout("grant-in-flight-revoked", "V2 R20", "revoke: [R20] a grant",
           ("break_revoke.cc", "{ return g.range.overlaps(r); });", "{ return !PLANTED && g.range.overlaps(r); });")),
    layout("rest-not-recalled", "V4", "revoke: what the change does not free",
           ("break_revoke.cc", "if (c.mapping->send_recall(rest,", "if (!PLANTED && c.mapping->send_recall(rest,")),
    layout("moved-blocks-revoked", "V7", "revoke: only what frees blocks",
           ("break_revoke.cc", "request_.reports_freed && request_.only_frees &&", "request_.reports_freed && (PLANTED || request_.only_frees) &&")),
    layout("copies-punched", "V7", "revoke: zeros and copies of shared blocks",
           ("inode_layout.h", "return !hole && !copied; }", "return !hole && (PLANTED || !copied); }")),
    layout("blocks-taken-for-copies", "F4 V7", "recall: a stopped reader of shared blocks",
           ("break_recall.cc", "|| (copies() && !p.pool))", "|| (copies() && (PLANTED || !p.pool)))")),
    layout("shared-blocks-punched", "F4", "revoke: shared blocks are recalled",
           ("break_revoke.cc", "m.revocable(r) && !inode_->shared.any(r);", "m.revocable(r) && (PLANTED || !inode_->shared.any(r));")),
    mounted("shares-not-held", "F4 T2", "sharing", "stopped_reader_of_a_clone",
            ("src/fs/share.cc", "if (held_back) hold(part);", "if (held_back && !PLANTED) hold(part);")),
    Mutation("held-blocks-freed", "F4", "test/alloc/test_alloc", "alloc: quarantine keeps what is held",
             [("src/alloc/quarantine.cc", "for (const BlockRun& h : held(tx, middle)) {", "for (const BlockRun& h : PLANTED ? std::vector<BlockRun>() : held(tx, middle)) {")]),
    Mutation("last-owner-frees-what-is-held", "F4", "test_sharing.py", "stopped_reader_of_a_clone",
             [("src/fs/share.cc", "fs_.allocator().held(tx_, {e.block, e.length})", "PLANTED ? std::vector<BlockRun>() : fs_.allocator().held(tx_, {e.block, e.length})")]),
    layout("pinned-page-punched", "R12", "revoke: [R12] a pin that quarantine leaves",
           ("break_revoke.cc", "const IntervalMap<bool> wanted = without_exempt(m, whole);",
            "IntervalMap<bool> wanted = without_exempt(m, whole);\n      if (PLANTED) wanted.assign(whole, true);")),
    mounted("ahead-of-others", "R38", "coherence_holes", "nobody_gives_way",
            ("src/layout/client_layout.cc", "    if (ahead) return go(Errc::kTryAgain);", "    if (ahead && !PLANTED) return go(Errc::kTryAgain);")),
    mounted("ahead-into-a-break", "R38", "coherence_holes", "nobody_gives_way",
            ("src/layout/client_layout.cc", "quick = quick && !(ahead && b->range()", "quick = quick && !(ahead && !PLANTED && b->range()")),
    mounted("copy-out-unshares", "P4", "sharing", "reading_keeps_sharing",
            ("src/client/pins.cc", "  if (!fast || !proto::fast_pin(*m->gate", "  if (PLANTED) how = How::kTry;\n  if (!fast || !proto::fast_pin(*m->gate"),
            ("src/client/pins.cc", "const u32 passable = how == How::kCopyOut ?", "const u32 passable = how == How::kCopyOut && !PLANTED ?")),
    mounted("punched-block-in-reach", "V3 R20", "revoke", "stale_pointer",
            ("src/alloc/resting.cc", "  do s = media_.punch(block_offset(run.start), run.length * kBlockSize);",
             "  do s = PLANTED ? Status() : media_.punch(block_offset(run.start), run.length * kBlockSize);")),
    mounted("copy-into-the-pool", "P4 R28", "sharing", "pins_and_clones",
            ("src/client/pieces.cc", "if (m.book.any(p.from, p.to)) drop_pieces(m, begin, begin + length);",
             "if (m.book.any(p.from, p.to) && !PLANTED) drop_pieces(m, begin, begin + length);")),
    Mutation("shared-in-place", "R29", "test/fs/test_fs", "fs: a store into a shared block",
             [("src/fs/share.cc", "[](const ExtentInfo& e) { return e.shared; });", "[](const ExtentInfo& e) { return e.shared && !PLANTED; });")]),
    Mutation("last-owner-frees-twice", "R29", "test/fs/test_fs", "fs: a thousand clones",
             [("src/fs/share.cc", "if (!e.shared) return release_owned", "if (!e.shared || PLANTED) return release_owned")]),
    # ---- the kernel's page cache
    layout("fault-leaves-the-cache", "C1", "page cache: a direct fault takes the page",
           ("client_layout.cc", "      quick = m->indirect || !m->inode", "      quick = PLANTED || m->indirect || !m->inode")),
    layout("write-back-into-freed", "C3", "page cache: write-backs are refused", ("layout_impl.cc", "return b->applying_in(range); });", "return !PLANTED && b->applying_in(range); });")),
    layout("fill-proves-nothing", "C4", "page cache: a fill of a draining page", ("layout_impl.cc", "    drops = inode.pages.fill_in_hand(pages);", "    if (!PLANTED) drops = inode.pages.fill_in_hand(pages);")),
    layout("fill-overtakes", "C4", "page cache: a fill queues behind", ("break.cc", "b->sleeps_for_recall_ && b->range_", "!PLANTED && b->sleeps_for_recall_ && b->range_")),
    layout("fill-ignores-pins", "C5", "page cache: a fill that meets a pin",
           ("break.cc", "if (kind_ == Kind::kFault || request_.recall_only) return recall();", "if (kind_ == Kind::kFault || request_.recall_only || PLANTED) return recall();")),
    layout("setattr-sleeps", "C6 R41", "page cache: [R41]", ("break_policy.cc", "return request_.kernel_setattr && (outstayed_", "return !PLANTED && request_.kernel_setattr && (outstayed_")),
    layout("no-second-verdict", "C6", "page cache: a fill under way when the SETATTR", ("break_sleep.cc", "      again = must_not_sleep();", "      again = !PLANTED && must_not_sleep();")),
    # ---- through the mount
    mounted("mount-no-hold-over-the-look-up", "F1 R15", "schedules", "grant_against_truncate",
            (L + "layout_impl.cc", "inode.range_lock.acquire(s->own, range, mode, [s] {", "inode.range_lock.acquire(s->own, PLANTED ? ByteRange{} : range, mode, [s] {")),
    mounted("mount-gate-stays-open", "B2 R3", "schedules", "gate_closed",
            (L + "break_scan.cc", "{ m.gate.close(this, range_); });\n  counted_in_", "{ if (!PLANTED) m.gate.close(this, range_); });\n  counted_in_")),
    mounted("mount-unmapped-is-forgotten", "R7", "schedules", "closed_with_a_pin",
            (L + "inode_layout.cc", "named = pin.unstable || pin.mapping == mapping->id;", "named = !PLANTED && (pin.unstable || pin.mapping == mapping->id);")),
    mounted("mount-pins-not-seen", "R1", "schedules", "stay_in_its_file",
            (L + "slot_scan.cc", "!= static_cast<u64>(proto::SlotState::kActive)) return std::nullopt;", "!= static_cast<u64>(proto::SlotState::kActive) || PLANTED) return std::nullopt;")),
    # ---- the file system
    Mutation("tail-not-zeroed", "R46", "test/fs/test_fs", "fs: an extension reads zeros",
             [("src/fs/file_data.cc", "if (size >= end) return {};", "if (size >= end || PLANTED) return {};")]),
]
