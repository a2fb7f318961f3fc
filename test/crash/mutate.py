#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Copies a source file with planted bugs, each asleep until the explorer wakes it by name: mutate.py SOURCE OUTPUT

A place that is not there any more is left out with a note; the test of plants then says which bug it could not find."""
import pathlib
import sys

# file: [(name, text that occurs once, text in its place)]
PLANTS = {
    "alloc/resting.cc": [
        ("free-before-commit", "if (durable >= entry.lsn && !entry.mapped) {", "if ((durable >= entry.lsn || PLANTED) && !entry.mapped) {"),
    ],
    "alloc/quarantine.cc": [
        ("shares-forgotten", "for (const auto& [ag, root] : pending_shares_) PINDAX_TRY(media_counts::set_shares_root(t, ag, root));",
         "for (const auto& [ag, root] : pending_shares_)\n      if (!PLANTED) PINDAX_TRY(media_counts::set_shares_root(t, ag, root));"),
        ("quarantine-forgotten", "state->quarantine_root = pending_root_.value;", "if (!PLANTED) state->quarantine_root = pending_root_.value;"),
    ],
    "alloc/media_counts.cc": [
        ("bad-unlisted", "state->bad_root = root.value;", "if (!PLANTED) state->bad_root = root.value;"),
    ],
    "journal/replay.cc": [
        ("same-epoch", "epoch_ = header.epoch + 1;", "epoch_ = header.epoch + (PLANTED ? 0 : 1);"),
        ("replay-before-flush", "PINDAX_TRY(ring_.flush(Lsn(header.head), end));", "if (!PLANTED) PINDAX_TRY(ring_.flush(Lsn(header.head), end));"),
    ],
    "journal/record.cc": [
        ("no-checksum", "return record_sum(record.data(), record.size(), epoch) == crc;",
         "return record_sum(record.data(), record.size(), epoch) == crc || PLANTED;"),
    ],
    "journal/meta_store.cc": [
        ("checkpoint-before-log", "PINDAX_TRY(flush_to(target));", "if (!PLANTED) PINDAX_TRY(flush_to(target));"),
    ],
    "fs/namespace.cc": [
        ("orphan-unlisted", "if (slot.links == 0 && !was_orphan) PINDAX_TRY(add_orphan", "if (slot.links == 0 && !was_orphan && !PLANTED) PINDAX_TRY(add_orphan"),
    ],
    "fs/file_data.cc": [
        ("tail-not-zeroed", "if (size >= end) return {};", "if (size >= end || PLANTED) return {};"),
    ],
    "fs/file_store.cc": [
        ("shared-in-place", "if (owned.front().owners > 1) return", "if (owned.front().owners > 1 && !PLANTED) return"),
        ("copy-not-synced", "if (!durable || media.granularity() != Granularity::kPage) return {};",
         "if (!durable || media.granularity() != Granularity::kPage || PLANTED) return {};"),
        ("commit-before-drain", "PINDAX_TRY(drain());", "if (!PLANTED) PINDAX_TRY(drain());"),
    ],
    "fs/sync.cc": [
        ("fsync-without-journal", "PINDAX_TRY(store_->sync(store_->last_lsn()));", "if (!PLANTED) PINDAX_TRY(store_->sync(store_->last_lsn()));"),
    ],
    "fs/mount.cc": [
        ("mount-unrecorded", "if (!options_.read_only) PINDAX_TRY(store_superblock());", "if (!options_.read_only && !PLANTED) PINDAX_TRY(store_superblock());"),
        ("lost-epochs-ignored", "bool FileSystemImpl::epoch_lost(u32 epoch) const {", "bool FileSystemImpl::epoch_lost(u32 epoch) const {\n  if (PLANTED) return false;"),
    ],
}


DECLARATION = "namespace pindax::testing {\nbool planted(const char* name);\n}\n"


def plant(source, text, plants):
    """The text with its plants, and the names of those whose place is gone. scripts/mutants plants with this, too."""
    gone = []
    for name, old, new in plants:
        if text.count(old) != 1:
            print(f"{source}: the place of plant {name} is gone", file=sys.stderr)
            gone.append(name)
            continue
        text = text.replace(old, new.replace("PLANTED", f'pindax::testing::planted("{name}")'))
    return DECLARATION + text, gone


def main():
    source, output = map(pathlib.Path, sys.argv[1:])
    text, _ = plant(source, source.read_text(), PLANTS["/".join(source.parts[-2:])])
    output.write_text(text)


if __name__ == "__main__":
    main()
